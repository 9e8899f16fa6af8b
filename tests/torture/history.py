"""The outcomes of batches, and the contents that a collection may have after them.

An acknowledged batch is present, a refused one is absent, and one with an unknown outcome is
completely present or absent. So a history has one or several *possible* contents; reading the
collection must find one of them, which is then the only one.
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
    """An upsert, or a delete if ``vectors`` is None; with a prefix of ids, a change of the metadata
    of the rows that match, or their delete without a patch.
    """

    ids: list[str]
    vectors: np.ndarray | None = None
    metadata: list[Any] | None = None
    prefix: str | None = None
    patch: dict[str, Any] | None = None

    def send(self, collection: Any) -> Any:
        """Write the batch; return the receipt."""
        if self.prefix is not None:
            condition = {"$id": {"$prefix": self.prefix}}
            if self.patch is None:
                return collection.delete(filter=condition)
            return collection.set_metadata(filter=condition, patch=self.patch)
        if self.vectors is None:
            return collection.delete(self.ids)
        return collection.upsert(self.ids, self.vectors, self.metadata)

    def apply(self, model: Model) -> None:
        if self.prefix is not None:
            names = [name for name in model.rows if name.startswith(self.prefix)]
            if self.patch is None:
                model.delete(names)
                return
            for name in names:
                vector, entry = model.rows[name]
                model.rows[name] = (vector, {**entry, **self.patch})
        elif self.vectors is None:
            model.delete(self.ids)
        else:
            model.upsert(self.ids, self.vectors, self.metadata)


@dataclass
class Possible:
    """A possible content, and the number of batches that it has."""

    seq: int
    model: Model

    def after(self, batch: Batch) -> Possible:
        model = Model(self.model.dim, self.model.metric)
        model.rows = copy.copy(self.model.rows)
        batch.apply(model)
        return Possible(self.seq + 1, model)


class History:
    """The history of one writer, the only one that writes its ids."""

    def __init__(self, dim: int, metric: str) -> None:
        self.possible = [Possible(0, Model(dim, metric))]
        self.names: dict[str, None] = {}

    def acknowledged(self, batch: Batch, seq: int | None = None) -> None:
        """Record an acknowledged batch. seq: of the receipt, if this is the collection's only
        writer.
        """
        self._name(batch)
        self.possible = [each.after(batch) for each in self.possible]
        if seq is not None:
            fitting = [each for each in self.possible if each.seq == seq]
            assert fitting, f"acknowledged at seq {seq}, not {[p.seq for p in self.possible]}"
            self.possible = fitting

    def unknown(self, batch: Batch) -> None:
        """Record a batch with unknown outcome, also if its writer was killed before the answer."""
        self._name(batch)
        self.possible += [each.after(batch) for each in self.possible]
        assert len(self.possible) <= POSSIBLE_MAX

    def settle(self, collection: Any, seq: int | None = None) -> Possible:
        """Read the collection; from then on its content is the only possible one, though perhaps
        with several seqs, as a batch may have changed nothing.

        Raises:
            AssertionError: the content is none of the possible ones.
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
        """``settle`` for the only writer of a collection, which also checks count, seq and
        searches.
        """
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
        """Return the first difference from the likeliest content, as text."""
        possible = [(each.seq, len(each.model.rows)) for each in self.possible]
        there = 0 if found is None else len(found.ids)
        text = f"seq {seq}, {there} rows; possible (seq, rows): {possible}"
        model = self.possible[-1].model
        held = set(found.ids) if found is not None else set()
        lost, extra = sorted(set(model.rows) - held), sorted(held - set(model.rows))
        return f"{text}; beside the last one lost: {lost[:5]}, not expected: {extra[:5]}"


def _same(found: Any, model: Model) -> bool:
    """Compare bit for bit."""
    if found is None:
        return not model.rows
    if set(found.ids) != set(model.rows):
        return False
    return all(
        found.vectors[i].tobytes() == model.rows[name][0].tobytes()
        and found.metadata[i] == model.rows[name][1]
        for i, name in enumerate(found.ids)
    )
