"""Labels of metrics, each declared once, with all that it may be or with what bounds it."""

from telemetry.metric import OTHER, Attribute

METHOD = Attribute(
    "http.request.method",
    "HTTP method.",
    values=(
        "GET",
        "POST",
        "PUT",
        "DELETE",
        "HEAD",
        "OPTIONS",
        "PATCH",
        "CONNECT",
        "TRACE",
        "QUERY",
        "_OTHER",
    ),
)
SCHEME = Attribute("url.scheme", "Scheme of the request, as the replica sees it.", values=("http", "https"))
ROUTE = Attribute(
    "http.route",
    "Template of the path; absent where no route matched.",
    limit=16,
    bounded_by="the application's routes",
)
STATUS = Attribute(
    "http.response.status_code", "Status of the answer.", limit=20, bounded_by="the statuses we use"
)
ERROR_CODE = Attribute(
    "error.type",
    "`code` of the error answered; see `deployments/errors.py`.",
    values=(
        "bad_request",
        "malformed_json",
        "not_an_image",
        "not_found",
        "method_not_allowed",
        "too_large",
        "too_many_bytes",
        "too_many_pixels",
        "unsupported_media_type",
        "invalid_value",
        "overloaded",
        "internal_error",
        "unavailable",
        "unhealthy",
        "deadline_exceeded",
        "not_durable",
        OTHER,
    ),
)
REASON = Attribute(
    "reason",
    "`full`: too many are inside; `late`: the queue would take too long; `closing`: the replica ends.",
    values=("full", "late", "closing", OTHER),
)
STAGE = Attribute(
    "stage",
    "`decode`: body to input; `queue`: waiting for a batch; `inference`: the batch on the device; "
    "`post`: result to answer; `spool`: until the record is durable.",
    values=("decode", "queue", "inference", "post", "spool"),
)
CLASS = Attribute(
    "class",
    "Class of the object.",
    limit=1001,
    bounded_by="the allow-list given at start (the model's class names, at most 1000); else `other`",
)
ANSWERED_BY = Attribute("answered_by", "Who answered.", values=("model", "popularity"))
MODEL_NAME = Attribute("model.name", "Name of the model.", limit=4, bounded_by="one model a replica")
MODEL_VERSION = Attribute(
    "model.version", "Version, as in every answer.", limit=4, bounded_by="one model a replica"
)
MODEL_SHA = Attribute("model.sha", "sha256 of the weights.", limit=4, bounded_by="one model a replica")
NOT_DURABLE = Attribute(
    "error.type",
    "Absent where it is on the disk. `full`: no space left; `bounds`: the spool holds all that it may; "
    "`broken`: the file system failed; `refused`: it can never be kept; `closed`: the replica ends.",
    values=("full", "bounds", "broken", "refused", "closed"),
)
TABLE = Attribute(
    "table",
    "Delta table.",
    values=("detections", "recommendations", "feedback", "interactions", "images"),
)
UNSHIPPED = Attribute(
    "error.type",
    "`store`: a table could not be read or written; `spool`: a spool could not.",
    values=("store", "spool"),
)
DAMAGE = Attribute(
    "kind",
    "`row`, `image`, `segment`: of a spool; `clock`: a time that this node's clock cannot explain.",
    values=("row", "image", "segment", "clock"),
)
CPU_MODE = Attribute("cpu.mode", "Where the time went.", values=("user", "system"))
HW_ID = Attribute("hw.id", "UUID of the GPU.", limit=16, bounded_by="the GPUs of a node")
HW_TYPE = Attribute("hw.type", "Kind of hardware.", values=("gpu",))
HW_NAME = Attribute("hw.name", "Model of the GPU.", limit=1, bounded_by="a property of the GPU (`hw.id`)")
HW_STATE = Attribute("hw.state", "1 on the state it is in.", values=("ok", "failed"))
HW_ERROR = Attribute("error.type", "ECC errors.", values=("corrected", "uncorrected"))
LOST = Attribute(
    "error.type",
    "Absent where the line arrived. `queue_full`: the collector was away for longer than the queue is; "
    "`rejected`: the collector would not have it; `shutdown`: the process ended first.",
    values=("queue_full", "rejected", "shutdown"),
)
