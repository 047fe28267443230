"""What the recommender's answers say, as metrics."""

import threading
import time
from collections.abc import Callable, Sequence

from telemetry import attributes, schema
from telemetry.instruments import Instruments, guarded

SCORES = 10  # of each list: the default length; a list of 100 would cost most of a millisecond
WINDOW_S = 600.0


class RecommendationMetrics:
    """One per replica.

    Args:
        instruments: Of this process.
        catalogue: Films that could be recommended, >= 1.
    """

    def __init__(self, instruments: Instruments, catalogue: int) -> None:
        self.strict = instruments.strict
        self._present = instruments.series(schema.RANKED_PRESENT)
        self._absent = instruments.series(schema.RANKED_ABSENT)
        self._answers = instruments.family(schema.RECOMMENDATION_ANSWERS, attributes.ANSWERED_BY)
        self._empty = instruments.series(schema.RECOMMENDATION_EMPTY)
        self._length = instruments.series(schema.LIST_LENGTH)
        self._score = instruments.family(schema.SCORE, attributes.ANSWERED_BY)
        self._unknown = instruments.series(schema.UNKNOWN_USERS)
        self._coverage = Coverage(catalogue)
        instruments.observe(schema.COVERAGE, lambda: [(self._coverage.share(), {})])

    @guarded
    def answered(
        self,
        items: Sequence[int],
        scores: Sequence[float],
        *,
        answered_by: str,
        ranked_movies: bool,
        unknown_user: bool,
    ) -> None:
        """Record one answered list; not for probes.

        Args:
            items: Film ids; only for the catalogue's coverage, never as labels.
            scores: In the same order, the best first.
            answered_by: `model` or `popularity`.
            ranked_movies: Whether the request names films that the user has ranked.
            unknown_user: Whether the user has no ratings.
        """
        (self._present if ranked_movies else self._absent).put(1)
        self._answers.of(answered_by).put(1)
        self._length.put(len(items))
        if not len(items):
            self._empty.put(1)
        if unknown_user:
            self._unknown.put(1)
        score = self._score.of(answered_by)
        for value in scores[:SCORES]:
            # The SDK refuses negative values in a histogram, with a line of log for each.
            score.put(max(0.0, float(value)))
        self._coverage.add(items)


class Coverage:
    """Which share of a catalogue came up lately, in two windows of which the older is forgotten.

    Args:
        catalogue: How many there are, >= 1.
        window_s: How long a window is, in seconds; the share is over one to two of them.
        clock: Seconds, never going back.
    """

    def __init__(
        self, catalogue: int, window_s: float = WINDOW_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._catalogue = max(1, catalogue)
        self._window_s = window_s
        self._clock = clock
        self._lock = threading.Lock()
        self._since = clock()
        self._now: set[int] = set()
        self._before: set[int] = set()

    def add(self, items: Sequence[int]) -> None:
        """Remember what came up."""
        with self._lock:
            self._turn()
            self._now.update(items)

    def share(self) -> float:
        """Return the share of the catalogue that came up, 0 to 1."""
        with self._lock:
            self._turn()
            return min(1.0, len(self._now | self._before) / self._catalogue)

    def _turn(self) -> None:
        windows = (self._clock() - self._since) // self._window_s
        if windows < 1:
            return
        self._before = self._now if windows < 2 else set()
        self._now = set()
        self._since += windows * self._window_s
