"""Requests as HTTP knows them: how long each took and how many are in flight, by the semantic conventions."""

from collections import Counter

from telemetry import attributes, schema
from telemetry.instruments import Instruments, Reading, Series, guarded

KNOWN_METHODS = frozenset(attributes.METHOD.values)
OTHER_METHOD = "_OTHER"


class HttpMetrics:
    """One per replica; `took` runs where recordings are drained, the others on its event loop.

    Args:
        instruments: Of this process.
    """

    def __init__(self, instruments: Instruments) -> None:
        self.strict = instruments.strict
        self._instruments = instruments
        self._active: Counter[tuple[str, str]] = Counter()
        self._durations: dict[tuple[str, str, str, int | None, str], Series] = {}
        instruments.observe(schema.HTTP_ACTIVE, self._in_flight)

    @guarded
    def arrived(self, method: str, scheme: str) -> None:
        """Count a request in."""
        self._active[known(method), known_scheme(scheme)] += 1

    @guarded
    def left(self, method: str, scheme: str) -> None:
        """Count it out; the arguments as of `arrived`."""
        self._active[known(method), known_scheme(scheme)] -= 1

    @guarded
    def took(
        self, method: str, scheme: str, route: str, status: int | None, error: str, duration_s: float
    ) -> None:
        """Record how long a request took, in its context: the span makes the exemplar.

        Args:
            method: As `arrived`.
            scheme: As `arrived`.
            route: Template of its path; empty where none matched.
            status: Of the answer; None where there was none.
            error: `code` of the error answered; empty for none, and for one that is the client's.
            duration_s: Seconds.
        """
        method, scheme = known(method), known_scheme(scheme)
        key = (method, scheme, route, status, error)
        if (series := self._durations.get(key)) is None:
            series = self._durations[key] = self._instruments.series(schema.HTTP_DURATION, _labels(*key))
        series.put(duration_s)

    def _in_flight(self) -> Reading:
        names = (attributes.METHOD.name, attributes.SCHEME.name)
        return [(count, dict(zip(names, key, strict=True))) for key, count in list(self._active.items())]


def known(method: str) -> str:
    """Return the method, or `_OTHER` for one that somebody made up."""
    return method if method in KNOWN_METHODS else OTHER_METHOD


def known_scheme(scheme: str) -> str:
    """Return the scheme; `http` for what a client made up (`X-Forwarded-Proto` becomes it unchecked)."""
    return scheme if scheme in attributes.SCHEME.values else "http"


def _labels(method: str, scheme: str, route: str, status: int | None, error: str) -> dict[str, str]:
    given = {
        attributes.METHOD.name: method,
        attributes.SCHEME.name: scheme,
        attributes.ROUTE.name: route,
        attributes.STATUS.name: str(status or ""),
        attributes.ERROR_CODE.name: error,
    }
    return {name: value for name, value in given.items() if value}
