"""What both applications record: stages, batches, errors, refusals, the model."""

from collections.abc import Callable, Mapping

from telemetry import attributes, schema
from telemetry.instruments import Instruments, guarded


class ServingMetrics:
    """One per replica. Every method is quick, safe from any thread, and never breaks an answer.

    Args:
        instruments: Of this process.
    """

    def __init__(self, instruments: Instruments) -> None:
        self.strict = instruments.strict
        self.later = instruments.later
        self._instruments = instruments
        self._errors = instruments.family(schema.ERRORS, attributes.ERROR_CODE)
        self._refused = instruments.family(schema.REFUSED, attributes.REASON)
        self._stages = instruments.family(schema.STAGE_DURATION, attributes.STAGE)
        self._batch_size = instruments.series(schema.BATCH_SIZE)
        self._batch_fill = instruments.series(schema.BATCH_UTILIZATION)
        self._batch_duration = instruments.series(schema.BATCH_DURATION)

    @guarded
    def stages(self, seconds: Mapping[str, float]) -> None:
        """Record one request's stages, `{"decode": 0.004, …}`, in its context."""
        for stage, duration_s in seconds.items():
            self._stages.of(stage).put(duration_s)

    @guarded
    def batch(self, size: int, max_size: int, run_s: float) -> None:
        """Record one batch, once: `size` of `max_size` items, `run_s` seconds on the device."""
        self._batch_size.put(size)
        self._batch_fill.put(size / max_size)
        self._batch_duration.put(run_s)

    @guarded
    def error(self, code: str) -> None:
        """Count an error answered, a refusal among them, by its `code`."""
        self._errors.of(code).put(1)

    @guarded
    def refused(self, reason: str) -> None:
        """Count a refusal at the door: `full`, `late` or `closing`."""
        self._refused.of(reason).put(1)

    @guarded
    def model(self, name: str, version: str, sha: str, load_s: float) -> None:
        """Say which model answers, and how long it took to load; once, after loading."""
        labels = {
            attributes.MODEL_NAME.name: name,
            attributes.MODEL_VERSION.name: version,
            attributes.MODEL_SHA.name: sha,
        }
        self._instruments.series(schema.MODEL_INFO, labels).put(1)
        self._instruments.series(schema.MODEL_LOAD).put(load_s)

    def queue(self, depth: Callable[[], int]) -> None:
        """Read the queue's depth at each export; `depth` is called on the exporter's thread. Once."""
        self._instruments.observe(schema.QUEUE_DEPTH, lambda: [(depth(), {})])
