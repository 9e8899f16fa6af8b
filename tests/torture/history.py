"""What was said of batches, and what a collection may hold after that.

A batch that was acknowledged is there, one that was refused is not, and one of unknown outcome is
there whole or not at all. So a history has one or several *possible* contents; looking at the
collection must find one of them, which it then is.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.model import Model

POSSIBLE_MAX = 64


@dataclass(frozen=True)
class Batch:
    """An upsert, or with ``vectors`` None a delete."""

    ids: list[str]
    vectors: np.ndarray | None = None
    metadata: list[Any] | None = None

    def send(self, collection: Any) -> Any:
        """Write it; returns the receipt."""
        if self.vectors is None:
            return collection.delete(self.ids)
        return collection.upsert(self.ids, self.vectors, self.metadata)

    def apply(self, model: Model) -> None:
        if self.vectors is None:
            model.delete(self.ids)
        else:
            model.upsert(self.ids, self.vectors, self.metadata)


@dataclass
class Possible:
    """Contents, and how many batches made them."""

    seq: int
    model: Model

    def after(self, batch: Batch) -> Possible:
        model = Model(self.model.dim, self.model.metric)
        model.rows = copy.copy(self.model.rows)
        batch.apply(model)
        return Possible(self.seq + 1, model)


class History:
    """Of one writer, who alone writes the ids that its batches name."""

    def __init__(self, dim: int, metric: str) -> None:
        self.possible = [Possible(0, Model(dim, metric))]
        self.names: dict[str, None] = {}

    def acknowledged(self, batch: Batch, seq: int | None = None) -> None:
        """seq: as the receipt says, for the only writer of a collection."""
        self._name(batch)
        self.possible = [each.after(batch) for each in self.possible]
        if seq is not None:
            fitting = [each for each in self.possible if each.seq == seq]
            assert fitting, f"acknowledged at seq {seq}, not {[p.seq for p in self.possible]}"
            self.possible = fitting

    def unknown(self, batch: Batch) -> None:
        """Also for a batch whose writer died before it was answered."""
        self._name(batch)
        self.possible += [each.after(batch) for each in self.possible]
        assert len(self.possible) <= POSSIBLE_MAX

    def settle(self, collection: Any, seq: int | None = None) -> Possible:
        """Look what is there; from then on it is the only possible content, though perhaps of
        several seqs: a batch may have changed nothing.

        Raises:
            AssertionError: it is none of the possible ones.
        """
        found = collection.get(list(self.names)) if self.names else None
        fitting = [
            each
            for each in self.possible
            if (seq is None or each.seq == seq) and _same(found, each.model)
        ]
        if not fitting:
            raise AssertionError(self._difference(found, seq))
        self.possible = list({each.seq: each for each in fitting}.values())
        return fitting[-1]

    def check(self, collection: Any, *, queries: int = 3) -> None:
        """``settle`` for the only writer of a collection; count, seq and searches too."""
        info = collection.search(np.ones(self.possible[0].model.dim, np.float32), k=1).info
        settled = self.settle(collection, info.seq).model
        assert collection.count() == len(settled.rows)
        rng = np.random.default_rng(len(self.names))
        for query in rng.normal(size=(queries, settled.dim)).astype(np.float32):
            for k in (5, len(settled.rows) + 3):
                settled.check_hits(collection.search(query, k=k, exact=True), query, k, exact=True)
                settled.check_hits(collection.search(query, k=k), query, k, exact=False)

    def _name(self, batch: Batch) -> None:
        self.names.update(dict.fromkeys(batch.ids))

    def _difference(self, found: Any, seq: int | None) -> str:
        """The first that differs from the likeliest content, in words."""
        said = [(each.seq, len(each.model.rows)) for each in self.possible]
        there = 0 if found is None else len(found.ids)
        text = f"seq {seq}, {there} rows; possible (seq, rows): {said}"
        model = self.possible[-1].model
        held = set(found.ids) if found is not None else set()
        lost, extra = sorted(set(model.rows) - held), sorted(held - set(model.rows))
        return f"{text}; beside the last one lost: {lost[:5]}, not expected: {extra[:5]}"


def _same(found: Any, model: Model) -> bool:
    """Bit for bit."""
    if found is None:
        return not model.rows
    if set(found.ids) != set(model.rows):
        return False
    return all(
        found.vectors[i].tobytes() == model.rows[name][0].tobytes()
        and found.metadata[i] == model.rows[name][1]
        for i, name in enumerate(found.ids)
    )
