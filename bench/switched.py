"""A replica for `bench.telemetry` and `bench.store`: one process, one model, the same threads, in two ways.

Two processes that do the same differ in CPU for as long as they live, by more than what is measured costs;
and so do two threads that run the same model. So what is compared is switched on and off in one replica.
"""

import threading
from typing import Literal

from fastapi import FastAPI, Response
from ray.serve import Application

from deployments.detection import DetectionService
from deployments.observer import Observer
from deployments.replica import ServeReplica, bind
from deployments.settings import DetectionArgs, DetectionTunables
from telemetry import providers, schema
from telemetry.detection import DetectionMetrics

Side = Literal["on", "off"]


class Switched(ServeReplica[DetectionTunables]):
    """The deployment `Switched`."""

    tunables = DetectionTunables

    def __init__(self, args: DetectionArgs) -> None:
        telemetry = self.start_telemetry(schema.DETECTION)
        self._keeper = self.start_keeping(schema.DETECTION, args.store)
        self.service = service = DetectionService(args, telemetry=telemetry, keeper=self._keeper)
        self._detection = service
        off = Observer(schema.DETECTION, providers.off())
        nothing = DetectionMetrics(off.telemetry.instruments, list(service.class_ids))
        self._observed = {
            "on": (dict(vars(service.observer)), service.metrics),
            "off": (dict(vars(off)), nothing),
        }

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Give Serve the application, the switch, and a look at the threads."""
        app = FastAPI()
        app.add_api_route("/threads", _threads)
        app.add_api_route("/telemetry/{side}", self._switch_telemetry, methods=["POST"])
        app.add_api_route("/store/{side}", self._switch_store, methods=["POST"])
        app.mount("/app", self.service.app)
        return app

    async def _switch_telemetry(self, side: Side) -> Response:
        """Record from now on, or nothing; while no request is in flight."""
        state, metrics = self._observed[side]
        observer = self.service.observer
        vars(observer).update(state)
        self._detection.metrics = metrics
        self._detection.pipeline.metrics = observer.metrics
        return Response()

    async def _switch_store(self, side: Side) -> Response:
        """Keep records from now on, or none; while no request is in flight."""
        self.service.keeper = self._keeper if side == "on" else None
        return Response()


async def _threads() -> dict[int, str]:
    """Return Python's name of each thread, by the operating system's id."""
    return {one.native_id: one.name for one in threading.enumerate() if one.native_id is not None}


def build(args: DetectionArgs) -> Application:
    """Build the application."""
    return bind(Switched, args, name="Switched")
