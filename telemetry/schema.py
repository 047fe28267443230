"""THE contract: every metric and every log field, declared once.

Instruments are built from it, `docs/metrics.md` is printed from it, rules and dashboards are tested
against it. The name of a metric stands nowhere else. Define before use; reuse before adding; where
the semantic conventions (1.44) have a name, it is theirs. Never the id of a user, of a film or of an
inference in a metric: those are in log lines and records.
"""

from telemetry import schema_store
from telemetry.attributes import (
    ANSWERED_BY,
    CLASS,
    CPU_MODE,
    ERROR_CODE,
    HW_ERROR,
    HW_ID,
    HW_NAME,
    HW_STATE,
    HW_TYPE,
    LOST,
    METHOD,
    MODEL_NAME,
    MODEL_SHA,
    MODEL_VERSION,
    REASON,
    ROUTE,
    SCHEME,
    STAGE,
    STATUS,
)
from telemetry.metric import Kind, LogField, Metric
from telemetry.metric import prometheus_label as prometheus_label  # noqa: PLC0414 - part of the contract
from telemetry.metric import prometheus_name as prometheus_name  # noqa: PLC0414 - the same
from telemetry.services import DETECTION as DETECTION  # noqa: PLC0414 - the same
from telemetry.services import EVERYBODY as EVERYBODY  # noqa: PLC0414 - the same
from telemetry.services import NAMESPACE as NAMESPACE  # noqa: PLC0414 - the same
from telemetry.services import RECOMMENDATION as RECOMMENDATION  # noqa: PLC0414 - the same
from telemetry.services import SERVING as SERVING  # noqa: PLC0414 - the same
from telemetry.services import STORE as STORE  # noqa: PLC0414 - the same

DECILES = tuple(round(0.1 * step, 1) for step in range(1, 11))

# --- both applications --------------------------------------------------------------------------

# FastAPI 0.165 records these two by itself, for five times the CPU (docs/adr/0007).
HTTP_DURATION = Metric(
    "http.server.request.duration",
    Kind.HISTOGRAM,
    "s",
    "From the request's head to the answer's last byte, whatever the answer; probes are left out.",
    (METHOD, SCHEME, ROUTE, STATUS, ERROR_CODE),
    services=SERVING,
)
HTTP_ACTIVE = Metric(
    "http.server.active_requests",
    Kind.UPDOWNCOUNTER,
    "{request}",
    "Requests in flight; probes are left out.",
    (METHOD, SCHEME),
    services=SERVING,
    observed=True,
)
ERRORS = Metric(
    "serve.errors",
    Kind.COUNTER,
    "{error}",
    "Errors answered, by type.",
    (ERROR_CODE,),
    services=SERVING,
)
REFUSED = Metric(
    "serve.requests.refused",
    Kind.COUNTER,
    "{request}",
    "Requests refused at the door, before any work was done.",
    (REASON,),
    services=SERVING,
)
# One histogram for both applications, not `detection.stage.duration`: they share the path, `job`
# tells them apart, and one panel and one rule serve both. The queue's and the device's time are
# stages of it, not metrics of their own: a duration is recorded once.
STAGE_DURATION = Metric(
    "serve.stage.duration",
    Kind.HISTOGRAM,
    "s",
    "Where one request's time went.",
    (STAGE,),
    services=SERVING,
)
QUEUE_DEPTH = Metric(
    "serve.queue.depth",
    Kind.UPDOWNCOUNTER,
    "{request}",
    "Requests waiting for a batch; those on the device are not counted.",
    services=SERVING,
    observed=True,
)
BATCH_SIZE = Metric(
    "serve.batch.size",
    Kind.HISTOGRAM,
    "{request}",
    "Requests that ran together.",
    buckets=(1, 2, 4, 8, 16, 32, 64),
    services=SERVING,
)
BATCH_UTILIZATION = Metric(
    "serve.batch.utilization",
    Kind.HISTOGRAM,
    "1",
    "Fill of a batch: its size over the largest allowed.",
    buckets=DECILES,
    services=SERVING,
)
BATCH_DURATION = Metric(
    "serve.batch.duration",
    Kind.HISTOGRAM,
    "s",
    "Device time of one batch; the rate of its sum is how busy the device is.",
    services=SERVING,
)
EXPECTED_REPLICAS = Metric(
    "serve.expected_replicas",
    Kind.GAUGE,
    "{replica}",
    "Replicas that the configuration asks for at least.",
    services=SERVING,
    observed=True,
)
MODEL_INFO = Metric(
    "model.info",
    Kind.GAUGE,
    "{model}",
    "1, with the model loaded in its labels.",
    (MODEL_NAME, MODEL_VERSION, MODEL_SHA),
    services=SERVING,
)
MODEL_LOAD = Metric(
    "model.load.duration",
    Kind.GAUGE,
    "s",
    "How long loading and warming up the model took.",
    services=SERVING,
)

# --- detector -----------------------------------------------------------------------------------

DETECTION_ANSWERS = Metric(
    "detection.answers", Kind.COUNTER, "{answer}", "Images answered.", services=(DETECTION,)
)
DETECTION_EMPTY = Metric(
    "detection.empty_answers",
    Kind.COUNTER,
    "{answer}",
    "Images in which nothing was found.",
    services=(DETECTION,),
)
OBJECTS = Metric(
    "detection.objects", Kind.COUNTER, "{object}", "Objects found, by class.", (CLASS,), services=(DETECTION,)
)
OBJECTS_PER_IMAGE = Metric(
    "detection.image.objects",
    Kind.HISTOGRAM,
    "{object}",
    "Objects in one image.",
    buckets=(0, 1, 2, 5, 10, 20, 50, 100, 200),
    services=(DETECTION,),
)
CONFIDENCE = Metric(
    "detection.object.confidence",
    Kind.HISTOGRAM,
    "1",
    "Confidence of the objects found; of a crowded image 50 of them, evenly spaced.",
    buckets=DECILES,
    services=(DETECTION,),
)

# --- recommender --------------------------------------------------------------------------------

RANKED_PRESENT = Metric(
    "recommendation.requests.with_ranked_movies",
    Kind.COUNTER,
    "{request}",
    "Answered requests that name films the user has ranked.",
    services=(RECOMMENDATION,),
)
# Two counters, not one with a label: they are drawn as two lines, and each is one query.
RANKED_ABSENT = Metric(
    "recommendation.requests.without_ranked_movies",
    Kind.COUNTER,
    "{request}",
    "Answered requests that name none.",
    services=(RECOMMENDATION,),
)
RECOMMENDATION_ANSWERS = Metric(
    "recommendation.answers",
    Kind.COUNTER,
    "{answer}",
    "Lists answered, by who made them.",
    (ANSWERED_BY,),
    services=(RECOMMENDATION,),
)
RECOMMENDATION_EMPTY = Metric(
    "recommendation.empty_answers",
    Kind.COUNTER,
    "{answer}",
    "Lists without a film.",
    services=(RECOMMENDATION,),
)
LIST_LENGTH = Metric(
    "recommendation.list.items",
    Kind.HISTOGRAM,
    "{item}",
    "Films in one list.",
    buckets=(0, 1, 2, 5, 10, 20, 50, 100),
    services=(RECOMMENDATION,),
)
SCORE = Metric(
    "recommendation.item.score",
    Kind.HISTOGRAM,
    "1",
    "Score of a list's first 10 films, negative ones as 0; model and popularity do not compare.",
    (ANSWERED_BY,),
    services=(RECOMMENDATION,),
)
COVERAGE = Metric(
    "recommendation.catalogue.coverage",
    Kind.GAUGE,
    "1",
    "Share of the catalogue that this replica recommended within the last 10 to 20 minutes.",
    services=(RECOMMENDATION,),
    observed=True,
)
UNKNOWN_USERS = Metric(
    "recommendation.users.unknown",
    Kind.COUNTER,
    "{request}",
    "Answered requests for a user without ratings.",
    services=(RECOMMENDATION,),
)

# --- every process ------------------------------------------------------------------------------

UPTIME = Metric(
    "process.uptime", Kind.GAUGE, "s", "The heartbeat: seconds since the process started.", observed=True
)
MEMORY = Metric("process.memory.usage", Kind.UPDOWNCOUNTER, "By", "Resident memory (RSS).", observed=True)
CPU_TIME = Metric(
    "process.cpu.time", Kind.COUNTER, "s", "CPU time of the process.", (CPU_MODE,), observed=True
)
LOGS_PROCESSED = Metric(
    "otel.sdk.processor.log.processed",
    Kind.COUNTER,
    "{log_record}",
    "Log lines that the collector has, and those that it will never get, by why.",
    (LOST,),
)
LOGS_WAITING = Metric(
    "otel.sdk.processor.log.queue.size",
    Kind.UPDOWNCOUNTER,
    "{log_record}",
    "Log lines that wait for the collector.",
    observed=True,
)

# --- GPU: only where there is one ---------------------------------------------------------------

GPU_UTILIZATION = Metric(
    "hw.gpu.utilization",
    Kind.GAUGE,
    "1",
    "Share of time with a kernel running.",
    (HW_ID, HW_NAME),
    observed=True,
)
GPU_MEMORY_USAGE = Metric(
    "hw.gpu.memory.usage", Kind.UPDOWNCOUNTER, "By", "Memory in use.", (HW_ID, HW_NAME), observed=True
)
GPU_MEMORY_LIMIT = Metric(
    "hw.gpu.memory.limit", Kind.UPDOWNCOUNTER, "By", "Memory there is.", (HW_ID, HW_NAME), observed=True
)
GPU_MEMORY_UTILIZATION = Metric(
    "hw.gpu.memory.utilization", Kind.GAUGE, "1", "Share of memory in use.", (HW_ID, HW_NAME), observed=True
)
GPU_POWER = Metric("hw.power", Kind.GAUGE, "W", "Power drawn.", (HW_ID, HW_NAME, HW_TYPE), observed=True)
GPU_ENERGY = Metric(
    "hw.energy",
    Kind.COUNTER,
    "J",
    "Energy drawn since the driver was loaded.",
    (HW_ID, HW_NAME, HW_TYPE),
    observed=True,
)
GPU_TEMPERATURE = Metric(
    "hw.temperature", Kind.GAUGE, "Cel", "Temperature of the chip.", (HW_ID, HW_NAME, HW_TYPE), observed=True
)
GPU_ERRORS = Metric(
    "hw.errors",
    Kind.COUNTER,
    "{error}",
    "Memory errors since the driver was loaded.",
    (HW_ID, HW_NAME, HW_TYPE, HW_ERROR),
    observed=True,
)
GPU_STATUS = Metric(
    "hw.status",
    Kind.UPDOWNCOUNTER,
    "1",
    "1 on the state the GPU is in, 0 on the others.",
    (HW_ID, HW_NAME, HW_TYPE, HW_STATE),
    observed=True,
)

METRICS: tuple[Metric, ...] = (
    *(value for value in list(globals().values()) if isinstance(value, Metric)),
    *schema_store.METRICS,
)

# --- log fields ---------------------------------------------------------------------------------

REQUEST_ID = LogField("request_id", "As in the answer's `X-Request-ID`.")
INFERENCE_ID = LogField("inference_id", "As in the answer's `X-Inference-ID`; names the record.")
APPLICATION = LogField("application", "The Serve application.", SERVING)
OUTCOME = LogField(
    "outcome",
    "How the request ended.",
    ("answered", "refused", "invalid", "failed", "late", "unavailable", "abandoned"),
)
LATENCY_MS = LogField("latency_ms", "From the request's arrival to its answer, in milliseconds.")
HTTP_STATUS = LogField("status", "HTTP status of the answer.")
LOG_ERROR_CODE = LogField("error_code", "`code` of the error answered.", ERROR_CODE.values)
LOG_SOURCE = LogField("source", "Where the request came from (camera, tenant), as the client says.")
PROBE = LogField("probe", "True for a probe: outside admission, SLI and request counts.")
BATCH = LogField("batch_size", "How many requests ran together.")
LOG_STAGES = tuple(LogField(f"{stage}_ms", f"Stage `{stage}`, in milliseconds.") for stage in STAGE.values)
EXCEPTION_TYPE = LogField("exception.type", "Class of the exception.")
EXCEPTION_MESSAGE = LogField("exception.message", "What it says, redacted.")
EXCEPTION_STACKTRACE = LogField("exception.stacktrace", "The traceback, redacted, at most 16 kB.")

# What OTLP carries beside the attributes, and what these are called in the console's JSON.
TRACE_ID = LogField("trace_id", "32 hexadecimal digits; the exemplars of metrics carry the same.")
SPAN_ID = LogField("span_id", "16 hexadecimal digits.")
LOG_ENVELOPE = (
    LogField("time", "RFC 3339, UTC, microseconds."),
    LogField("level", "Severity.", ("DEBUG", "INFO", "WARN", "ERROR", "FATAL")),
    LogField("logger", "Name of the Python logger; OTLP's scope."),
    LogField("message", "The line itself, redacted; OTLP's body."),
    LogField("service", "`service.name`."),
    TRACE_ID,
    SPAN_ID,
)
LOG_FIELDS: tuple[LogField, ...] = (
    REQUEST_ID,
    INFERENCE_ID,
    APPLICATION,
    OUTCOME,
    LATENCY_MS,
    HTTP_STATUS,
    LOG_ERROR_CODE,
    LOG_SOURCE,
    PROBE,
    BATCH,
    *LOG_STAGES,
    EXCEPTION_TYPE,
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
)
