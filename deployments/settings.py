"""What a user tunes in `serve_config.yaml`, checked key by key: an unknown key is refused by name.

`args` are read once, when a replica starts; `user_config` applies to running replicas.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from deployments.admission import AdmissionLimits
from deployments.batcher import BatchLimits

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Table = Literal["detections", "recommendations", "feedback", "interactions", "images"]


class Settings(BaseModel):
    """Frozen; refuses unknown keys, naming them."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Batching(Settings):
    """How requests are batched, see `deployments.batcher.BatchLimits`."""

    max_size: Count = 16
    max_pixels: Count | None = Field(None, description="pixels of one batch as the model sees them")
    wait_ms: float = Field(3.0, ge=0, le=1000, description="how long a lone request waits for company")

    def limits(self) -> BatchLimits:
        """Return the batcher's own form."""
        return BatchLimits(
            max_size=self.max_size,
            max_cost=float("inf") if self.max_pixels is None else float(self.max_pixels),
            wait_s=self.wait_ms / 1000,
        )


class Admitting(Settings):
    """Who is let in, see `deployments.admission.AdmissionLimits`."""

    max_waiting: Count = 64
    deadline_s: Positive = 10.0

    def limits(self) -> AdmissionLimits:
        """Return admission's own form."""
        return AdmissionLimits(max_waiting=self.max_waiting, deadline_s=self.deadline_s)


class Tunables(Settings):
    """The `user_config` that both applications have; changes apply without a restart."""

    batching: Batching = Batching()
    admission: Admitting = Admitting()
    stuck_s: Positive = Field(60.0, description="a batch running for longer makes the replica unhealthy")
    slow_s: Positive = Field(2.0, description="an answer that took longer is a warning in the log")
    max_body_bytes: Count = Field(1_000_000, description="a longer body is answered with 413")


class DetectionTunables(Tunables):
    """The `user_config` of the deployment `Detection`."""

    max_body_bytes: Count = 20_000_000
    max_image_pixels: Count = Field(40_000_000, description="an image with more is answered with 413")


class RecommendationTunables(Tunables):
    """The `user_config` of the deployment `Recommendation`."""

    batching: Batching = Batching(max_size=256, wait_ms=1.0)
    admission: Admitting = Admitting(max_waiting=1024, deadline_s=5.0)


class Keeping(Settings):
    """What becomes of records, see `deployments.keeper`. One store: the same in both applications."""

    records: Literal["all", "none"] = "all"
    on_error: Literal["refuse", "serve"] = Field(
        "refuse", description="a record that cannot be kept: answer 503, or answer and count it"
    )
    durability: Literal["full", "normal", "off"] = Field(
        "full", description="what a record outlives: a power cut; its process, killed; nothing"
    )
    images: float = Field(1.0, ge=0, le=1, description="share of the images that is kept, chosen by content")
    spool_bytes: Count = Field(20_000_000_000, description="a replica that has as many waiting takes no more")
    spool_age_s: Positive = Field(7 * 86_400.0, description="the same, of seconds since the oldest")
    retain_days: dict[Table, Count] = Field({}, description="table: days after which its records go")


class Replica(Settings):
    """The `args` that both applications have: what one replica runs on."""

    device: Literal["auto", "cuda", "cpu"] = "auto"
    gpus_per_replica: Share = Field(0.4, description="share of a GPU that each replica reserves")
    cpus_per_replica: Share = Field(0.5, description="CPU cores that each replica reserves")
    store: Keeping = Keeping()


class DetectorSettings(Settings):
    """The detector: another checkpoint is one line."""

    weights: str = Field("yolov8n", description="an artifact's name, or a file: Ultralytics .pt or export")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="refuse any other file")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    image_size: int = Field(640, ge=32, le=4096, multiple_of=32)
    threads: Count | None = Field(None, description="CPU threads of the model; default all there are")
    decode_threads: Count = 2


class DetectionArgs(Replica):
    """The `args` of the application `detection`."""

    detector: DetectorSettings = DetectorSettings()


class RecommenderModel(Settings):
    """The recommender: other ratings are one line."""

    ratings: str = Field("movielens-100k", description="an artifact's name, or a CSV or Parquet file")
    titles: str | None = Field(None, description="CSV or Parquet of item and title")
    factors: Count = 32
    regularization: Share = 1.0
    alpha: Positive = 1.0
    iterations: Count = 15
    seed: int = Field(0, ge=0, lt=2**32)


class RecommendationArgs(Replica):
    """The `args` of the application `recommendation`."""

    gpus_per_replica: Share = 0.2
    cpus_per_replica: Share = 0.25
    recommender: RecommenderModel = RecommenderModel()
