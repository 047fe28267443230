"""Everything up on one machine, and everything down again: what `make run` calls.

`ports` says who listens where, `processes` starts programs and ends them by their ids, `ray_head` is
a Ray head node under our hand, `deploy` hands it `serve_config.yaml`. `backends` runs the telemetry
pipeline of `otel-collector/`: `backend_programs` knows its programs, `backend_check` lets them read
their configurations, `dotenv` reads its settings. `__main__` ties them together.
"""
