"""The recommender: many users in one call, each with wishes of their own; never filler.

`validate` checks one query on any thread; `recommend` runs one batch on the one device thread. Nothing in a
validated query can make `recommend` raise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from models.factors import (
    Factors,
    Interactions,
    RecommenderSettings,
    new_model,
    put_factors,
    train_or_load,
)
from models.implicit_device import resolve_gpu
from models.ratings import Ratings

__all__ = ["Query", "Recommendation", "Recommender", "RecommenderSettings", "UnknownItems"]

AnsweredBy = Literal["model", "popularity"]
# implicit gives what must not be recommended the lowest float, and returns it where nothing else is left.
FILLER = np.finfo(np.float32).min / 2


class UnknownItems(ValueError):
    """A query names films that nobody has heard of.

    Attributes:
        field: Of the query.
        ids: The unknown ones, as named, without repetitions.
    """

    def __init__(self, field: str, ids: tuple[int, ...]) -> None:
        super().__init__(f"{field}: unknown films {', '.join(map(str, ids))}")
        self.field = field
        self.ids = ids


@dataclass(frozen=True, slots=True)
class Query:
    """What one user wants.

    Attributes:
        user_id: Anybody; strangers get popular films.
        n: Films at most, >= 1; fewer come back where fewer are left.
        ranked_movies: Films to leave out.
        candidates: Only these; None for all. Films without a rating have no score, and are left out.
        exclude_seen: Leave out what the user has rated, among the candidates too.
    """

    user_id: int
    n: int = 10
    ranked_movies: tuple[int, ...] = ()
    candidates: tuple[int, ...] | None = None
    exclude_seen: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Recommendation:
    """Films for one user, the best first.

    Attributes:
        item_id: `(k,) int64`, k <= n.
        score: `(k,) float32`, descending; compares within one answer only. By the model the expected
            preference, about 0 to 1; by popularity the share of users who rated the film.
        answered_by: `model`, or `popularity` for a user without ratings.
    """

    item_id: NDArray[np.int64]
    score: NDArray[np.float32]
    answered_by: AnsweredBy


class Recommender:
    """Factors on their device, and all it takes to answer from them.

    Args:
        interactions: Who has seen what.
        titles: Film to title; may name films that nobody has rated.
        factors: Trained on these interactions.
        settings: They were trained with.
        gpu: Whether implicit runs on the GPU.

    Attributes:
        version: Of the factors.
        factors: The factors themselves, in host memory.
        gpu: Whether implicit runs on the GPU.
    """

    def __init__(
        self,
        interactions: Interactions,
        titles: dict[int, str],
        factors: Factors,
        settings: RecommenderSettings,
        *,
        gpu: bool = False,
    ) -> None:
        self.factors = factors
        self.gpu = gpu
        self.version = factors.version
        self._titles = titles
        self._user_id, self._item_id = interactions.user_id, interactions.item_id
        self._known = frozenset(self._item_id.tolist()) | titles.keys()
        self._seen = interactions.matrix
        raters = np.bincount(self._seen.indices, minlength=len(self._item_id))
        self._popularity = (raters / len(self._user_id)).astype(np.float32)
        self._by_popularity = np.argsort(-self._popularity, kind="stable")
        self._model = new_model(settings, gpu=gpu)
        if not gpu:
            # On 2 cores its own threads cost more than they bring, and the other core serves HTTP.
            self._model.num_threads = 1
        put_factors(self._model, factors, gpu=gpu)

    @classmethod
    def train_or_load(
        cls,
        ratings: Ratings,
        settings: RecommenderSettings,
        folder: Path,
        *,
        device: str = "auto",
        start: Factors | None = None,
    ) -> "Recommender":
        """Load the model of these ratings and settings from `folder`; train and store it where it is missing.

        Args:
            ratings: At least one.
            settings: See there.
            folder: One model a subfolder, named by version.
            device: `auto`, `cuda` or `cpu`.
            start: Factors of earlier ratings to train on from (a refit); None starts anew.

        Raises:
            DeviceError: The device asked for is not there.
        """
        gpu = resolve_gpu(device)
        interactions = Interactions.of(ratings)
        factors = train_or_load(interactions, settings, folder, gpu=gpu, start=start)
        return cls(interactions, ratings.titles, factors, settings, gpu=gpu)

    def titles(self, item_id: NDArray[np.int64]) -> list[str]:
        """Return the films' titles; empty where none is known."""
        return [self._titles.get(int(item), "") for item in item_id]

    def known_ratings(self, user_id: int) -> int:
        """Return how many films the user has rated, as far as the model knows."""
        (row,) = self._user_rows([user_id])
        return 0 if row < 0 else int(self._seen.indptr[row + 1] - self._seen.indptr[row])

    def validate(self, query: Query) -> None:
        """Check that every film named is one.

        Raises:
            UnknownItems: For the first field with a film that has neither a rating nor a title.
        """
        for field, ids in (("ranked_movies", query.ranked_movies), ("candidates", query.candidates)):
            unknown = [item for item in dict.fromkeys(ids or ()) if item not in self._known]
            if unknown:
                raise UnknownItems(field, tuple(unknown))

    def recommend(self, queries: Sequence[Query]) -> list[Recommendation]:
        """Answer a batch of validated queries; same length, same order; one thread at a time."""
        rows = self._user_rows([query.user_id for query in queries])
        answers: list[Recommendation | None] = [None] * len(queries)
        together = []
        for index, (query, row) in enumerate(zip(queries, rows, strict=True)):
            if row >= 0 and query.candidates is None:
                together.append(index)
            else:
                answers[index] = self._one(query, int(row))
        found = self._batch([queries[index] for index in together], rows[together])
        for index, answer in zip(together, found, strict=True):
            answers[index] = answer
        return [answer for answer in answers if answer is not None]

    def _user_rows(self, user_ids: Sequence[int]) -> NDArray[np.int64]:
        return _find(self._user_id, np.array(user_ids, np.int64))

    def _excluded(self, query: Query, row: int) -> NDArray[np.int32]:
        """Return the columns to leave out."""
        seen = self._seen.indices[self._seen.indptr[row] : self._seen.indptr[row + 1]]
        parts = [seen if query.exclude_seen and row >= 0 else seen[:0]]
        if query.ranked_movies:
            ranked = _find(self._item_id, np.array(query.ranked_movies, np.int64))
            parts.append(ranked[ranked >= 0].astype(np.int32))
        return np.concatenate(parts)

    def _batch(self, queries: Sequence[Query], rows: NDArray[np.int64]) -> list[Recommendation]:
        """Ask implicit for all films, for many known users at once."""
        if not queries:
            return []
        excluded = [self._excluded(query, int(row)) for query, row in zip(queries, rows, strict=True)]
        most = min(max(query.n for query in queries), len(self._item_id))
        columns, scores = self._model.recommend(rows.astype(np.int32), self._filter(excluded), most)
        return [
            self._answer(columns[index, : query.n], scores[index, : query.n], "model")
            for index, query in enumerate(queries)
        ]

    def _filter(self, excluded: Sequence[NDArray[np.int32]]) -> scipy.sparse.csr_matrix:
        indptr = np.cumsum([0, *map(len, excluded)], dtype=np.int32)
        indices = np.concatenate(excluded)
        ones = np.ones(len(indices), np.float32)
        return scipy.sparse.csr_matrix((ones, indices, indptr), shape=(len(excluded), len(self._item_id)))

    def _one(self, query: Query, row: int) -> Recommendation:
        """Answer a stranger (`row` -1) from popularity, or anybody's query for candidates."""
        excluded = self._excluded(query, row)
        if query.candidates is None:
            # As many more as may drop out; sorting a large catalogue for every stranger would not do.
            columns = self._by_popularity[: query.n + len(excluded)]
        else:
            columns = _find(self._item_id, np.unique(np.array(query.candidates, np.int64)))
            columns = columns[columns >= 0]
        columns = columns[~np.isin(columns, excluded)]
        scores = self._popularity[columns] if row < 0 else self._scores(columns, row)
        # Stable: of equals the same film first, every time.
        best = np.argsort(-scores, kind="stable")[: query.n]
        return self._answer(columns[best], scores[best], "popularity" if row < 0 else "model")

    def _scores(self, columns: NDArray[np.int64], row: int) -> NDArray[np.float32]:
        factors = self.factors
        scores: NDArray[np.float32] = factors.item_factors[columns] @ factors.user_factors[row]
        return scores

    def _answer(
        self, columns: NDArray[np.int64], scores: NDArray[np.float32], answered_by: AnsweredBy
    ) -> Recommendation:
        real = scores > FILLER
        return Recommendation(self._item_id[columns[real]], scores[real], answered_by)


def _find(known: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each wanted id stands among the ascending known ones; -1 where it does not."""
    place = np.searchsorted(known, wanted)
    place[place == len(known)] = 0
    return np.where(known[place] == wanted, place, -1)
