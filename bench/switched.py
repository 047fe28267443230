"""A replica for `bench.telemetry`: one process, one model, asked under `/on` with telemetry, `/off` without.

Two processes that do the same differ in CPU for as long as they live, by more than telemetry costs.
"""

import threading

from fastapi import FastAPI
from ray.serve import Application

from deployments.detection import DetectionService
from deployments.replica import ServeReplica, bind
from deployments.settings import DetectionArgs, DetectionTunables
from models.detector import Detector
from telemetry import schema


class _SameModel(DetectionService):
    """Answers with a detector that is already there, and records nothing."""

    def __init__(self, args: DetectionArgs, detector: Detector) -> None:
        self._loaded = detector
        super().__init__(args)

    def _load(self, args: DetectionArgs, tunables: DetectionTunables) -> Detector:
        return self._loaded


class Switched(ServeReplica[DetectionTunables]):
    """The deployment `Switched`."""

    tunables = DetectionTunables

    def __init__(self, args: DetectionArgs) -> None:
        on = DetectionService(args, telemetry=self.start_telemetry(schema.DETECTION))
        self.service = on
        self._off = _SameModel(args, on.detector)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Give Serve both, and a look at the threads."""
        app = FastAPI()
        app.add_api_route("/threads", _threads)
        app.mount("/on", self.service.app)
        app.mount("/off", self._off.app)
        return app

    def __del__(self) -> None:
        """Close both."""
        if hasattr(self, "_off"):
            self._off.close()
        super().__del__()


async def _threads() -> dict[int, str]:
    """Return Python's name of each thread, by the operating system's id."""
    return {one.native_id: one.name for one in threading.enumerate() if one.native_id is not None}


def build(args: DetectionArgs) -> Application:
    """Build the application."""
    return bind(Switched, args, name="Switched")
