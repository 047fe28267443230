"""`/detect`: one hop. The replica is the HTTP ingress and holds the model."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from fastapi import FastAPI, Query, Request, Response
from ray.serve import Application

from deployments import records
from deployments.batcher import BatchTiming
from deployments.errors import InvalidValue, NotFound
from deployments.http import account, inference_headers, json_response, new_app
from deployments.inferences import Inferences, inference
from deployments.keeper import Keeper
from deployments.observer import Account, Observer
from deployments.origin import note_origin
from deployments.pipeline import Pipeline
from deployments.render import render
from deployments.replica import VERSION, ServeReplica, Service, bind, locate
from deployments.schemas import DetectAnswer, DetectQuery, Feedback, RenderQuery, body_doc
from deployments.settings import DetectionArgs, DetectionTunables
from deployments.threads import pool
from deployments.uploads import FIELD, IMAGE_TYPES, MULTIPART, Upload, decode_upload, read_upload
from models.artifacts import check_sha256
from models.detections import Detections
from models.detector import Detected, DetectionSettings, Detector, Prepared
from models.images import sniff
from models.properties import PROPERTY_NAMES, Properties, measure, warm
from store.entry import Entry
from store.lookup import Found
from telemetry import providers, schema
from telemetry.detection import DetectionMetrics

log = logging.getLogger("glasshouse.detection")

Item = tuple[Prepared, DetectionSettings]

SIDES = ("x1", "y1", "x2", "y2")
STAGES = ("decode", "queue", "inference")

BODY_DOC = body_doc(
    {kind: {"schema": {"type": "string", "format": "binary"}} for kind in IMAGE_TYPES}
    | {MULTIPART: {"schema": {"properties": {FIELD: {"type": "string", "format": "binary"}}}}}
)


@dataclass(frozen=True, slots=True, eq=False)
class Inference:
    """One answered model call."""

    inference_id: str
    upload: Upload
    detected: Detected
    timing: BatchTiming


class DetectionService(Service[DetectionTunables]):
    """Everything of the application but Serve.

    Args:
        args: Model and device, fixed for the life of a replica.
        tunables: Limits, see `reconfigure`.
        telemetry: Of this process; None records nothing.
        keeper: Keeps what answers leave behind; None keeps nothing.
    """

    def __init__(
        self,
        args: DetectionArgs,
        tunables: DetectionTunables | None = None,
        telemetry: providers.Telemetry | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        tunables = tunables or DetectionTunables()
        self.observer = Observer(schema.DETECTION, telemetry or providers.off())
        self.detector = self._load(args, tunables)
        self.class_ids = {name: class_id for class_id, name in self.detector.class_names.items()}
        self.metrics = DetectionMetrics(self.observer.telemetry.instruments, list(self.class_ids))
        pixels = float(args.detector.image_size**2)
        self.pipeline = Pipeline[Item, Detected](
            self._detect,
            tunables,
            self.observer.metrics,
            cost=lambda _: pixels,
            workers=args.detector.decode_threads,
        )
        self.model = records.Model(self.detector.name, self.detector.version, _what_decides(self.detector))
        if keeper is not None:
            warm()
        self._properties = pool("properties", 1)
        super().__init__(self._build_app(keeper), self.pipeline, tunables, self.observer, keeper)

    def close(self) -> None:
        """Take no more requests. Idempotent."""
        super().close()
        self._properties.shutdown(wait=False)

    async def detect(self, request: Request, query: DetectQuery) -> Response:
        """Answer `POST /detect`."""
        known = account(request)
        made = await self._infer(request, query, known)
        with known.stage("post"):
            content = self._answer(made)
            return json_response(content, headers=inference_headers(made.inference_id, made.timing))

    async def render(self, request: Request, query: RenderQuery) -> Response:
        """Answer `POST /detect/render`."""
        known = account(request)
        made = await self._infer(request, query, known)
        with known.stage("post"):
            picture = await self.pipeline.prepare(
                render, made.upload.image, made.detected.detections, self.detector.class_names
            )
            headers = inference_headers(made.inference_id, made.timing)
            return Response(picture, media_type="image/jpeg", headers=headers)

    async def _infer(self, request: Request, query: DetectQuery, known: Account) -> Inference:
        note_origin(request, known, query)
        settings = self._settings(query)
        self.check_kept()
        async with self.pipeline.admit(probe=known.probe) as place:
            data = await read_upload(request, self.tunables.max_body_bytes)
            place.uploaded()
            with known.stage("decode"):
                upload, prepared = await self.pipeline.prepare(self._prepare, data)
            measured = self._measure(upload)
            detected, timing = await self.pipeline.infer((prepared, settings))
            known.ran(timing)
            properties = await measured
            inference_id = await self.answered(
                known,
                lambda name, keeper: self._entry(name, keeper, known, settings, upload, detected, properties),
            )
        if not known.probe:
            self.observer.later(self._record, detected.default_detections)
        return Inference(inference_id, upload, detected, timing)

    def _measure(self, upload: Upload) -> Awaitable[Properties | None]:
        """Measure the image beside the model: on a thread of its own, without the interpreter's lock."""
        loop = asyncio.get_running_loop()
        if self.keeper is None:
            nothing: asyncio.Future[None] = loop.create_future()
            nothing.set_result(None)
            return nothing
        return loop.run_in_executor(self._properties, _try_to_measure, upload)

    def _entry(
        self,
        inference_id: str,
        keeper: Keeper,
        known: Account,
        settings: DetectionSettings,
        upload: Upload,
        detected: Detected,
        properties: Properties | None,
    ) -> Entry:
        height, width = upload.image.shape[:2]
        keep = keeper.keeps_image(upload.sha256)
        image = records.Image(upload.data, upload.sha256, width, height, keep=keep)
        return records.detection(
            inference_id, known, self.model, settings, image, detected, properties, replica=keeper.replica
        )

    def replay(self, data: bytes, settings: Mapping[str, Any]) -> Detections:
        """Run a record again; blocks, on the device thread's time.

        The answer is the same to the last digit where device, precision, threads and code are: kernels are
        chosen by the size of the batch, so it is run in a batch as large, of copies of itself.

        Args:
            data: The image as received.
            settings: The record's.
        """
        _, prepared = self._prepare(data)
        classes = settings["classes"]
        asked = DetectionSettings(
            confidence=settings["confidence"],
            iou=settings["iou"],
            max_detections=settings["max_detections"],
            classes=None if classes is None else tuple(classes),
        )
        size = int(settings["batch_size"])
        return self.detector.detect([prepared] * size, [asked] * size)[0].detections

    def _load(self, args: DetectionArgs, tunables: DetectionTunables) -> Detector:
        began = time.monotonic()
        detector = load_detector(args, tunables.batching.max_size)
        load_s = time.monotonic() - began
        self.observer.metrics.model(detector.name, detector.version, detector.sha256, load_s)
        return detector

    def _record(self, found: Detections) -> None:
        """Record what was found at the default settings: a client's own would bias the signal."""
        names = self.detector.class_names
        self.metrics.answered(
            [names[int(class_id)] for class_id in found.class_id], found.confidence.tolist()
        )

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

    def _answer(self, made: Inference) -> dict[str, Any]:
        height, width = made.upload.image.shape[:2]
        names, found = self.detector.class_names, made.detected.detections
        return {
            "inference_id": made.inference_id,
            "model": {"name": self.detector.name, "version": self.detector.version},
            "image": {"width": width, "height": height},
            "detections": [
                {
                    "class_id": int(class_id),
                    "class_name": names[int(class_id)],
                    "confidence": confidence,
                    "box": dict(zip(SIDES, box, strict=True)),
                }
                for class_id, confidence, box in zip(
                    found.class_id, found.confidence, found.boxes, strict=True
                )
            ],
        }

    def _build_app(self, keeper: Keeper | None) -> FastAPI:
        app = new_app("glasshouse detection", "Objects in images.", self.observer)

        @app.post(
            "/", summary="Find objects", openapi_extra=BODY_DOC, responses={200: {"model": DetectAnswer}}
        )
        async def detect(request: Request, query: Annotated[DetectQuery, Query()]) -> Response:
            return await self.detect(request, query)

        jpeg: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}}

        @app.post("/render", summary="Find objects and draw them", openapi_extra=BODY_DOC, responses=jpeg)
        async def rendered(request: Request, query: Annotated[RenderQuery, Query()]) -> Response:
            return await self.render(request, query)

        if keeper is not None:
            self._add_inferences(app, keeper)
        return app

    def _add_inferences(self, app: FastAPI, keeper: Keeper) -> None:
        kept = Inferences(keeper, "detections", self._show)
        kept.add_to(app, schema.DETECTION, Feedback)

        @app.get(
            "/inferences/{inference_id}/image",
            summary="The image that was sent",
            responses={200: {"content": {kind: {} for kind in IMAGE_TYPES}}},
        )
        async def image(inference_id: str) -> Response:
            found = await kept.find(inference_id)
            data = await asyncio.to_thread(kept.lookup.image, found)
            if data is None:
                raise NotFound("The image of this inference is not kept (store.images, store.retain_days).")
            return Response(data, media_type=sniff(data))

    def _show(self, found: Found, feedback: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what is known of an answer; maps as numbers only, they have their own routes."""
        row = found.columns
        return {
            **inference(found, feedback),
            "image": {name: row[name] for name in ("width", "height")} | {"sha256": row["image_sha256"]},
            "latency_ms": {stage: np.float32(row[f"{stage}_ms"]) for stage in STAGES},
            "detections": self._objects(row, ""),
            "default_detections": self._objects(row, "default_"),
            "properties": {name: row[name] for name in PROPERTY_NAMES} | {"step": row["property_step"]},
            "attention": {name: row[name] for name in ("map_explained", "map_gap", "lift")},
        }

    def _objects(self, row: Mapping[str, Any], prefix: str) -> list[dict[str, Any]]:
        names = self.detector.class_names
        # As float32, which they are: as Python's floats they would have digits that the answer did not have.
        columns = [
            row[f"{prefix}class_id"],
            *(
                np.array(row[f"{prefix}{name}"], np.float32)
                for name in ("confidence", "x1", "y1", "x2", "y2")
            ),
        ]
        return [
            {
                "class_id": class_id,
                # A record may be older than the model.
                "class_name": names.get(class_id, ""),
                "confidence": confidence,
                "box": dict(zip(SIDES, box, strict=True)),
            }
            for class_id, confidence, *box in zip(*columns, strict=True)
        ]


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


def _what_decides(detector: Detector) -> dict[str, Any]:
    """Return what an answer depends on besides weights, image and request."""
    return {
        "device": str(detector.device),
        "precision": detector.precision,
        "image_size": detector.image_size,
        "threads": detector.threads,
        "weights_sha256": detector.sha256,
        "code": VERSION,
        "torch": torch.__version__,
    }


def _try_to_measure(upload: Upload) -> Properties | None:
    """Never a reason to refuse an answer."""
    try:
        return measure(upload.image)
    except Exception:
        log.exception("the properties of an image could not be measured")
        return None


class Detection(ServeReplica[DetectionTunables]):
    """The deployment `Detection`."""

    tunables = DetectionTunables

    def __init__(self, args: DetectionArgs) -> None:
        telemetry = self.start_telemetry(schema.DETECTION)
        keeper = self.start_keeping(schema.DETECTION, args.store)
        self.service = DetectionService(args, telemetry=telemetry, keeper=keeper)


def build(args: DetectionArgs) -> Application:
    """Build the application that `serve_config.yaml` names."""
    return bind(Detection, args, name="Detection")
