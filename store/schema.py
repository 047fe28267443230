"""The tables: every column once, with its type and what it means.

Tables evolve by adding columns at the end, all of them nullable: a row from before has null there. Delta
Lake has no float16 and no unsigned integers, so an embedding and a map are their bytes.
"""

from dataclasses import dataclass

import pyarrow as pa

LISTS = "parallel, the most confident first"
TIME = pa.timestamp("us", tz="UTC")
TEXT, INT, LONG, FLOAT, DOUBLE = pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.float64()
PARTITION = "date"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, its Arrow type, one sentence."""

    name: str
    type: pa.DataType
    says: str


# In the order of `drift.md`; the formulas are in `models.properties`.
PROPERTIES = (
    Column("aspect", DOUBLE, "height / width"),
    Column("area", DOUBLE, "height · width, pixels"),
    Column("brightness", DOUBLE, "mean gray, 0..255"),
    Column("contrast", DOUBLE, "population standard deviation of gray, 0..127.5"),
    Column("red", DOUBLE, "mean of R / (R + G + B), 0..1"),
    Column("green", DOUBLE, "mean of G / (R + G + B), 0..1"),
    Column("blue", DOUBLE, "mean of B / (R + G + B), 0..1"),
    Column("log_sharpness", DOUBLE, "ln(1 + variance of the Laplacian), 0..13.9"),
    Column("entropy", DOUBLE, "of gray, bits, 0..8"),
    Column("saturation", DOUBLE, "mean 8-bit HSV saturation, 0..255"),
    Column("noise", DOUBLE, "median of the Laplacian's size / (0.6745 · √20), gray levels"),
    Column("blockiness", DOUBLE, "mean step at every eighth column ÷ at all columns"),
    Column("clipping", DOUBLE, "share of gray below 8 or above 247, 0..1"),
)


def _boxes(prefix: str, of: str) -> tuple[Column, ...]:
    floats = pa.list_(FLOAT)
    return (
        Column(f"{prefix}class_id", pa.list_(INT), f"{of}: class of each object; {LISTS}"),
        Column(f"{prefix}confidence", floats, f"{of}: confidence of each object, 0..1"),
        *(
            Column(f"{prefix}{side}", floats, f"{of}: {side} of each box, pixels")
            for side in ("x1", "y1", "x2", "y2")
        ),
    )


_INFERENCE = (
    Column("inference_id", TEXT, "UUIDv7: its time is the day of the partition"),
    Column("request_id", TEXT, "as in the answer's X-Request-ID and in the log line"),
    Column("trace_id", TEXT, "W3C, 32 hexadecimal digits"),
    Column("ts", TIME, "when the answer was ready"),
    Column("model_name", TEXT, "of the model that answered"),
    Column("model_version", TEXT, "of the model that answered"),
    Column("replica", TEXT, "Ray Serve's name of the replica"),
    Column("source", TEXT, "where the request came from (camera, tenant), as the client says"),
    Column("tags", pa.list_(TEXT), "as the client says; `probe` for a probe"),
    Column("settings", TEXT, "JSON: with the model and the input, enough to get the same answer again"),
)

DETECTIONS = (
    *_INFERENCE,
    Column("image_sha256", TEXT, "key of the image in `images`"),
    Column("width", INT, "pixels of the upright image"),
    Column("height", INT, "pixels of the upright image"),
    Column("decode_ms", FLOAT, "latency: decoding, waiting for a thread included"),
    Column("queue_ms", FLOAT, "latency: waiting for a batch"),
    Column("inference_ms", FLOAT, "latency: the batch on the device"),
    *_boxes("", "the answer as sent"),
    *_boxes("default_", "at the default settings (0.25, 0.7, all classes), from the same forward"),
    Column("property_step", INT, "the pixels of the properties are means of squares of this side; 1: all"),
    *PROPERTIES,
    Column("embedding", pa.binary(), "float16, little-endian: mean of the feature map"),
    Column("map", pa.binary(), "uint8, row by row: EigenCAM heat map of the image"),
    Column("map_height", INT, "cells, at most 20"),
    Column("map_width", INT, "cells, at most 20"),
    Column("map_explained", FLOAT, "share of the variance that the map explains, 0..1"),
    Column("map_gap", FLOAT, "first eigenvalue ÷ second"),
    Column("lift", FLOAT, "attention lift: mean of the map in the boxes ÷ everywhere"),
)

RECOMMENDATIONS = (
    *_INFERENCE,
    Column("user_id", LONG, "who asked"),
    Column("answered_by", TEXT, "`model` or `popularity`"),
    Column("ranked_movies", pa.list_(LONG), "films that the user has ranked already; left out of the answer"),
    Column("candidates", pa.list_(LONG), "the only films that were scored; null: all"),
    Column("movie_id", pa.list_(LONG), "the answer, the best first"),
    Column("score", pa.list_(FLOAT), "of each film"),
    Column("rank", pa.list_(INT), "of each film, from 1"),
    Column("known_ratings", INT, "how many films of the user the model knows"),
    Column("rationale", TEXT, "JSON: of each film, the number of similar users by rating"),
)

FEEDBACK = (
    Column("feedback_id", TEXT, "UUIDv7"),
    Column("inference_id", TEXT, "of the record that it is about"),
    Column("ts", TIME, "when it arrived"),
    Column("kind", TEXT, "`detection` or `recommendation`"),
    Column("payload", TEXT, "JSON, as sent"),
)

INTERACTIONS = (
    Column("interaction_id", TEXT, "UUIDv7"),
    Column("user_id", LONG, "who"),
    Column("movie_id", LONG, "which film"),
    Column("rating", DOUBLE, "as sent"),
    Column("ts", TIME, "as sent, else when it arrived"),
)

IMAGES = (
    Column("image_sha256", TEXT, "of the bytes, in hexadecimal"),
    Column("bytes", pa.binary(), "the file as received"),
)

TABLES: dict[str, tuple[Column, ...]] = {
    "detections": DETECTIONS,
    "recommendations": RECOMMENDATIONS,
    "feedback": FEEDBACK,
    "interactions": INTERACTIONS,
    "images": IMAGES,
}


def arrow(table: str) -> pa.Schema:
    """Return the Arrow schema of a table, the partition column `date` (`YYYY-MM-DD`, UTC) last.

    Raises:
        KeyError: There is no such table.
    """
    fields = [pa.field(column.name, column.type) for column in TABLES[table]]
    return pa.schema([*fields, pa.field(PARTITION, TEXT)])
