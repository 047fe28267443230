"""The two Serve applications. A request's path:

http.py            request id, root path, errors as JSON
admission.py       let in, or refused with a JSON 429, before any work is done
uploads.py         the body, bounded in bytes; the image, bounded in pixels; 4xx leaves here
batcher.py         collects while the device is busy; one device thread
models/            list of inputs -> list of results
schemas.py         the answer

`pipeline.py` ties admission, batcher and deadline together, the same for both applications;
`detection.py` and `recommendation.py` are the deployments; `settings.py` is what a user tunes.
"""
