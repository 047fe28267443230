"""What a replica of either application does besides answering: resources, health, reconfiguration."""

from collections.abc import Callable, Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
from fastapi import FastAPI, Response
from ray import serve
from ray.serve import Application
from uuid_utils import uuid7

from deployments.errors import Unavailable
from deployments.http import json_response
from deployments.keeper import Keeper
from deployments.observer import HEALTH, Account, Observer
from deployments.pipeline import RESTART_S, Pipeline
from deployments.settings import Keeping, Replica, Tunables
from deployments.shipping import Watch
from models import artifacts
from models.device import DeviceError
from store.entry import Entry
from store.places import CHECKOUT
from telemetry import providers, schema

Tuned = TypeVar("Tuned", bound=Tunables)

LOGGER = "glasshouse"  # every logger of ours is below it
VERSION = installed_version("glasshouse")


def actor_options(args: Replica) -> dict[str, float]:
    """Return what each replica reserves, decided inside the cluster, when the application is built.

    `num_gpus` must not stand in `serve_config.yaml`: it would hold on machines without a GPU too.

    Raises:
        DeviceError: `device: cuda` where no node of the cluster has a GPU.
    """
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = resources.get("GPU", 0)
    if args.device == "cuda" and not gpus:
        raise DeviceError(
            "device: cuda is asked for, but no node of this Ray cluster has a GPU; "
            "use device: auto, or add a GPU node before deploying."
        )
    use_gpu = gpus and args.device != "cpu"
    return {"num_cpus": args.cpus_per_replica, "num_gpus": args.gpus_per_replica if use_gpu else 0}


def locate(name: str, progress: Callable[[str], None] | None = None) -> Path:
    """Return the local path of an artifact's name (fetched if need be), or of a user's own file or folder.

    A relative path starts at the checkout: a replica's working folder is Ray's, not the user's.

    Raises:
        FileNotFoundError: Neither an artifact nor a file; says which names and which path were tried.
        ArtifactError: The artifact could not be had from any source.
    """
    if name in artifacts.names():
        return artifacts.fetch(name, progress=progress)
    path = (CHECKOUT / Path(name).expanduser()).resolve()
    if not path.exists():
        known = ", ".join(artifacts.names())
        raise FileNotFoundError(f"{name!r} is neither a file ({path}) nor one of the artifacts: {known}.")
    return path


def new_inference_id() -> str:
    """Return a UUIDv7: sorts by time, and tells the day of its record."""
    return str(uuid7())


class Service(Generic[Tuned]):
    """An application without Serve, so that it can run under any ASGI server.

    Args:
        app: The routes; `/healthz` is added here.
        pipeline: What the routes put their requests through.
        tunables: Limits in force, see `reconfigure`.
        observer: Records what becomes of requests.
        keeper: Keeps what answers leave behind; None keeps nothing.
    """

    def __init__(
        self,
        app: FastAPI,
        pipeline: Pipeline[Any, Any],
        tunables: Tuned,
        observer: Observer,
        keeper: Keeper | None = None,
    ) -> None:
        self.app = app
        self.observer = observer
        self.keeper = keeper
        self._pipeline = pipeline
        self.reconfigure(tunables)
        app.add_api_route(HEALTH, self.healthz, summary="Does this replica work?")

    def reconfigure(self, tunables: Tuned) -> None:
        """Apply new limits to every request from now on; nothing restarts."""
        self.tunables = tunables
        self.observer.slow_s = tunables.slow_s
        self._pipeline.reconfigure(tunables)

    def problems(self) -> list[str]:
        """Return what keeps this replica from answering; empty when it works."""
        return self._pipeline.problems()

    async def healthz(self) -> Response:
        """Answer 200 when this replica can answer, else 503 saying what is wrong."""
        problems = self.problems()
        # Not one of those that Serve should replace the replica for: the next would have the same disk.
        unkept = None if self.keeper is None else self.keeper.problem()
        if unkept is not None and self.keeper is not None and self.keeper.refuses:
            problems.append(unkept)
        if problems:
            raise Unavailable("; ".join(problems), retry_after_s=RESTART_S, code="unhealthy")
        return json_response({"status": "ok"} if unkept is None else {"status": "degraded", "reason": unkept})

    def check_kept(self) -> None:
        """Refuse at the door what could not be kept.

        Raises:
            NotKept: Nothing can be kept at present.
        """
        if self.keeper is not None:
            self.keeper.check()

    async def answered(self, known: Account, make: Callable[[str, Keeper], Entry]) -> str:
        """Give an answer its id, which nobody hears of before its record is kept.

        Args:
            known: Of the request.
            make: Makes the record of that id, for this keeper; on another thread.

        Raises:
            NotKept: It is not kept, so there is no answer.
        """
        inference_id, keeper = new_inference_id(), self.keeper
        if keeper is not None:
            with known.stage("spool"):
                await keeper.keep_made(lambda: [make(inference_id, keeper)])
        known.inference_id = inference_id
        return inference_id

    def close(self) -> None:
        """Take no more requests. Idempotent."""
        self._pipeline.close()
        if self.keeper is not None:
            self.keeper.close()


class ServeReplica(Generic[Tuned]):
    """Serve's side of an application: reconfiguration, health, the end.

    A subclass sets `service` in its constructor, which runs on the replica's event loop.
    """

    service: Service[Tuned]
    tunables: type[Tuned]
    telemetry: providers.Telemetry
    watch: Watch

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Give Serve the ASGI application; it asks after the constructor."""
        return self.service.app

    def start_telemetry(self, service: str) -> providers.Telemetry:
        """Start this process's telemetry, before anything else is built; `__del__` ends it.

        Args:
            service: `service.name`.
        """
        self.telemetry = providers.start(service, version=VERSION, attributes=_identity())
        self.telemetry.attach(LOGGER)
        self.telemetry.instruments.observe(schema.EXPECTED_REPLICAS, lambda: [(_expected_replicas(), {})])
        return self.telemetry

    def start_keeping(self, service: str, settings: Keeping) -> Keeper | None:
        """Open this replica's way to the store, after telemetry; the service closes it.

        Args:
            service: As above.
            settings: From the application's `args`.
        """
        if settings.records == "none":
            return None
        replica = serve.get_replica_context().replica_tag
        retain_days = {str(table): days for table, days in settings.retain_days.items()}
        self.watch = Watch(VERSION, service, retain_days)
        return Keeper(service, settings, self.telemetry.instruments, replica=replica)

    def reconfigure(self, user_config: Mapping[str, Any] | None) -> None:
        """Apply a changed `user_config`; unknown keys and bad values raise, by name."""
        # Serve clears the handlers of loggers when its own logging configuration changes.
        self.telemetry.attach(LOGGER)
        self.service.reconfigure(self.tunables.model_validate(user_config or {}))

    def check_health(self) -> None:
        """Raise where Serve should replace this replica (it does after three failures in a row)."""
        if problems := self.service.problems():
            raise RuntimeError("; ".join(problems))

    def __del__(self) -> None:
        """Close what the constructor opened; Serve's only shutdown hook, run after half a start too."""
        if hasattr(self, "service"):
            self.service.close()
        if hasattr(self, "watch"):
            self.watch.close()
        if hasattr(self, "telemetry"):
            self.telemetry.shutdown()


def _identity() -> dict[str, str]:
    """Return who this replica is, as resource attributes."""
    replica = serve.get_replica_context()
    return {
        "ray.application": replica.app_name,
        "ray.deployment": replica.deployment,
        "ray.replica.id": replica.replica_tag,
        "ray.node.id": ray.get_runtime_context().get_node_id(),
    }


def _expected_replicas() -> int:
    """Return how many replicas the configuration asks for at least."""
    # Serve tells a replica its world size, which autoscaling moves; the minimum has no public name.
    config = serve.get_replica_context()._deployment_config
    scaling = config.autoscaling_config
    return int(scaling.min_replicas if scaling else config.num_replicas or 1)


def bind(replica: type[ServeReplica[Any]], args: Replica, *, name: str) -> Application:
    """Make a Serve application of one deployment, called `name` in `serve_config.yaml`.

    Here rather than by decorators: importing a module that describes a replica then needs no Serve.
    """
    ingress: Any = serve.ingress()(replica)
    deployment: Any = serve.deployment(ingress, name=name)
    application: Application = deployment.options(ray_actor_options=actor_options(args)).bind(args)
    return application
