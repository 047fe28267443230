"""`/detect`: one hop. The replica is the HTTP ingress and holds the model."""

import logging
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from ray.serve import Application

from deployments.admission import Place
from deployments.batcher import BatchTiming
from deployments.errors import InvalidValue
from deployments.http import inference_headers, is_probe, json_response, new_app
from deployments.pipeline import Pipeline
from deployments.render import render
from deployments.replica import ServeReplica, Service, bind, locate, new_inference_id
from deployments.schemas import DetectAnswer, DetectQuery, RenderQuery, body_doc
from deployments.settings import DetectionArgs, DetectionTunables
from deployments.uploads import FIELD, IMAGE_TYPES, MULTIPART, Upload, decode_upload, read_upload
from models.artifacts import check_sha256
from models.detections import Detections
from models.detector import Detected, DetectionSettings, Detector, Prepared

log = logging.getLogger("glasshouse.detection")

Item = tuple[Prepared, DetectionSettings]

BODY_DOC = body_doc(
    {kind: {"schema": {"type": "string", "format": "binary"}} for kind in IMAGE_TYPES}
    | {MULTIPART: {"schema": {"properties": {FIELD: {"type": "string", "format": "binary"}}}}}
)


class DetectionService(Service[DetectionTunables]):
    """Everything of the application but Serve.

    Args:
        args: Model and device, fixed for the life of a replica.
        tunables: Limits, see `reconfigure`.
    """

    def __init__(self, args: DetectionArgs, tunables: DetectionTunables | None = None) -> None:
        tunables = tunables or DetectionTunables()
        self.detector = load_detector(args, tunables.batching.max_size)
        pixels = float(args.detector.image_size**2)
        self.pipeline = Pipeline[Item, Detected](
            self._detect, tunables, cost=lambda _: pixels, workers=args.detector.decode_threads
        )
        self.class_ids = {name: class_id for class_id, name in self.detector.class_names.items()}
        super().__init__(self._build_app(), self.pipeline, tunables)

    async def detect(self, request: Request, query: DetectQuery) -> Response:
        """Answer `POST /detect`."""
        async with self.pipeline.admit(probe=is_probe(request)) as place:
            upload, detected, timing = await self._infer(request, query, place)
        inference_id = new_inference_id()
        content = self._answer(inference_id, upload, detected.detections)
        return json_response(content, headers=inference_headers(inference_id, timing))

    async def render(self, request: Request, query: RenderQuery) -> Response:
        """Answer `POST /detect/render`."""
        async with self.pipeline.admit(probe=is_probe(request)) as place:
            upload, detected, timing = await self._infer(request, query, place)
            picture = await self.pipeline.prepare(
                render, upload.image, detected.detections, self.detector.class_names
            )
        headers = inference_headers(new_inference_id(), timing)
        return Response(picture, media_type="image/jpeg", headers=headers)

    async def _infer(
        self, request: Request, query: DetectQuery, place: Place
    ) -> tuple[Upload, Detected, BatchTiming]:
        settings = self._settings(query)
        data = await read_upload(request, self.tunables.max_body_bytes)
        place.uploaded()
        upload, prepared = await self.pipeline.prepare(self._prepare, data)
        detected, timing = await self.pipeline.infer((prepared, settings))
        return upload, detected, timing

    def _prepare(self, data: bytes) -> tuple[Upload, Prepared]:
        upload = decode_upload(data, self.tunables.max_image_pixels)
        return upload, self.detector.prepare(upload.image)

    def _detect(self, items: Sequence[Item]) -> list[Detected]:
        return self.detector.detect([prepared for prepared, _ in items], [settings for _, settings in items])

    def _settings(self, query: DetectQuery) -> DetectionSettings:
        return DetectionSettings(
            confidence=query.confidence,
            iou=query.iou,
            max_detections=query.max_detections,
            classes=None if query.classes is None else self._classes(query.classes),
        )

    def _classes(self, asked: str) -> tuple[int, ...]:
        """Turn `person,7` into class ids."""
        ids = []
        for word in (part.strip() for part in asked.split(",")):
            class_id = self.class_ids.get(word, int(word) if word.isdecimal() and len(word) < 10 else -1)
            if class_id not in self.detector.class_names:
                raise InvalidValue(f"classes: this model has no class {word!r}.", field="classes")
            ids.append(class_id)
        return tuple(sorted(set(ids)))

    def _answer(self, inference_id: str, upload: Upload, found: Detections) -> dict[str, Any]:
        height, width = upload.image.shape[:2]
        names = self.detector.class_names
        return {
            "inference_id": inference_id,
            "model": {"name": self.detector.name, "version": self.detector.version},
            "image": {"width": width, "height": height},
            "detections": [
                {
                    "class_id": int(class_id),
                    "class_name": names[int(class_id)],
                    "confidence": confidence,
                    "box": dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
                }
                for class_id, confidence, box in zip(
                    found.class_id, found.confidence, found.boxes, strict=True
                )
            ],
        }

    def _build_app(self) -> FastAPI:
        app = new_app("glasshouse detection", "Objects in images.")

        @app.post(
            "/", summary="Find objects", openapi_extra=BODY_DOC, responses={200: {"model": DetectAnswer}}
        )
        async def detect(request: Request, query: Annotated[DetectQuery, Query()]) -> Response:
            return await self.detect(request, query)

        jpeg: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}}

        @app.post("/render", summary="Find objects and draw them", openapi_extra=BODY_DOC, responses=jpeg)
        async def rendered(request: Request, query: Annotated[RenderQuery, Query()]) -> Response:
            return await self.render(request, query)

        return app


def load_detector(args: DetectionArgs, max_batch: int) -> Detector:
    """Fetch the weights, check them, and load them onto the device, warm.

    Raises:
        DeviceError: The device asked for is not there.
        ArtifactError: The weights could not be had, or are not the ones that `sha256` names.
    """
    settings = args.detector
    weights = locate(settings.weights)
    if settings.sha256 is not None:
        check_sha256(weights, settings.sha256)
    detector = Detector(
        weights,
        device=args.device,
        precision=settings.precision,
        image_size=settings.image_size,
        threads=settings.threads,
        warmup_batch=max_batch,
    )
    log.info("%s %s on %s", detector.name, detector.version, detector.device)
    return detector


class Detection(ServeReplica[DetectionTunables]):
    """The deployment `Detection`."""

    tunables = DetectionTunables

    def __init__(self, args: DetectionArgs) -> None:
        self.service = DetectionService(args)


def build(args: DetectionArgs) -> Application:
    """Build the application that `serve_config.yaml` names."""
    return bind(Detection, args, name="Detection")
