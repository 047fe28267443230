"""What the declaration of a metric says, and what Prometheus makes of it."""

import re
from dataclasses import dataclass
from enum import Enum
from math import prod

OTHER = "other"
MAX_SERIES = 1100  # of one metric in one process, whatever its attributes could make of it

# What `UnderscoreEscapingWithSuffixes`, Prometheus' default translation of OTLP names, appends.
UNITS = {
    "ms": "milliseconds",
    "s": "seconds",
    "By": "bytes",
    "J": "joules",
    "W": "watts",
    "Cel": "celsius",
    "Hz": "hertz",
    "%": "percent",
}
RATES = {"s": "second", "m": "minute", "h": "hour", "d": "day"}


class Kind(Enum):
    """What an instrument does; decides how Prometheus may be asked about it."""

    COUNTER = "counter"  # only grows: rate(), increase()
    UPDOWNCOUNTER = "updowncounter"  # a level whose replicas add up: sum()
    HISTOGRAM = "histogram"  # histogram_quantile(), histogram_fraction()
    GAUGE = "gauge"  # a level whose replicas do not add up: max(), avg()


@dataclass(frozen=True, slots=True)
class Attribute:
    """A label of a metric.

    Args:
        name: By the semantic conventions where they have one.
        brief: One sentence.
        values: All it may be; empty where the values are not known beforehand.
        limit: How many values there are at most, where they are not known beforehand; >= 1.
        bounded_by: What keeps it to so many, in words; required where `values` is empty.
    """

    name: str
    brief: str
    values: tuple[str, ...] = ()
    limit: int = 0
    bounded_by: str = ""

    def __post_init__(self) -> None:
        """Refuse an attribute that nothing bounds.

        Raises:
            ValueError: Neither its values nor what bounds them is declared.
        """
        if not self.values and not (self.limit and self.bounded_by):
            raise ValueError(f"{self.name}: declare its values, or what bounds them and to how many.")

    @property
    def size(self) -> int:
        """How many values there can be; of closed ones one more, for `other` or for none."""
        return len(self.values) + 1 if self.values else self.limit


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Args:
        name: By the semantic conventions where they have one; lowercase, dots, no unit, no `_total`.
        kind: See `Kind`.
        unit: UCUM (`s`, `By`, `1`), or a singular in braces (`{request}`) for counts.
        brief: One sentence: what a value says.
        attributes: All its labels.
        buckets: Upper bounds of explicit buckets. A histogram without them is exponential, and a
            native histogram in Prometheus.
        services: Which services emit it; empty: every process with telemetry.
        observed: Read by a callback at each export, rather than recorded when something happens.
    """

    name: str
    kind: Kind
    unit: str
    brief: str
    attributes: tuple[Attribute, ...] = ()
    buckets: tuple[float, ...] = ()
    services: tuple[str, ...] = ()
    observed: bool = False

    @property
    def exponential(self) -> bool:
        """Whether it arrives as a native histogram."""
        return self.kind is Kind.HISTOGRAM and not self.buckets

    @property
    def limit(self) -> int:
        """How many series one process may have of it; what is beyond lands in the overflow series."""
        return min(prod(attribute.size for attribute in self.attributes), MAX_SERIES)

    def attribute(self, name: str) -> Attribute:
        """Return the attribute of that name.

        Raises:
            KeyError: It is not declared; says what is.
        """
        for attribute in self.attributes:
            if attribute.name == name:
                return attribute
        known = ", ".join(attribute.name for attribute in self.attributes) or "none"
        raise KeyError(f"{self.name} declares no attribute {name!r}, but {known}.")


@dataclass(frozen=True, slots=True)
class LogField:
    """An attribute of log lines; in Loki structured metadata, in the console's JSON a key."""

    name: str
    brief: str
    values: tuple[str, ...] = ()


def prometheus_name(metric: Metric) -> str:
    """Return the name of `metric` in Prometheus: `serve.stage.duration` → `serve_stage_duration_seconds`.

    Classic histograms (those with `buckets`) have `_bucket`, `_sum` and `_count` behind it.
    """
    words = re.findall(r"[a-zA-Z0-9:]+", metric.name)
    main, _, per = re.sub(r"\{[^}]*\}", "", metric.unit).partition("/")
    suffixes = [UNITS.get(main, main)] if main and main != "1" else []
    suffixes += ["per", RATES.get(per, per)] if per else []
    words += [suffix for suffix in suffixes if suffix not in words]
    if metric.kind is Kind.COUNTER:
        words = [word for word in words if word != "total"] + ["total"]
    if metric.kind is Kind.GAUGE and metric.unit == "1":
        words = [word for word in words if word != "ratio"] + ["ratio"]
    name = "_".join(words)
    return f"_{name}" if name[0].isdigit() else name


def prometheus_label(attribute: Attribute) -> str:
    """Return the label of `attribute` in Prometheus: `http.route` → `http_route`."""
    return re.sub(r"[^a-zA-Z0-9]+", "_", attribute.name)
