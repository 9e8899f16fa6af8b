"""The oracle of the state machine: a collection in every clause that a write may have.

``StateModel`` adds to ``Model`` what decides whether a batch is applied: the seq, the version of
each live id, and the batches that had a request id. ``OpenScroll`` is a scroll that is under way,
with the rows that were there when it began.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import vecdb
from tests.filter_model import holds
from tests.model import Model
from vecdb.filters import parse_filter

Content = dict[str, tuple[bytes, str]]
"""Id → vector's bytes and the JSON of the metadata: as values, 1, 1.0 and True are equal."""


@dataclass(frozen=True)
class Batch:
    """A write with all of its terms: an upsert; a change of metadata, if it has a patch; or a
    delete. Without ids it is for the rows that match the filter."""

    ids: list[str] | None
    vectors: np.ndarray | None = None
    metadata: list[Any] | None = None
    insert_only: bool = False
    if_seq: int | None = None
    request_id: str | None = None
    skips: bool = False
    patch: Any = None
    mode: str = "merge"
    filter: dict[str, Any] | None = None

    def send(self, hand: Any) -> vecdb.Receipt:
        """Write it by way of a hand of ``second_process``."""
        receipt: vecdb.Receipt
        terms: dict[str, Any] = {"if_seq": self.if_seq, "request_id": self.request_id}
        if self.patch is not None:
            terms["filter"] = self.filter
            receipt = hand.call("set_metadata", self.ids, self.patch, self.mode, **terms)
        elif self.vectors is None:
            receipt = hand.call("delete", self.ids, filter=self.filter, **terms)
        else:
            terms["insert_only"] = self.insert_only
            terms["on_existing"] = "skip" if self.skips else "replace"
            receipt = hand.call("upsert", self.ids, self.vectors, self.metadata, **terms)
        return receipt

    def asked(self) -> tuple[Any, ...]:
        """What makes it the same batch as another one."""
        if self.patch is not None:
            return "patch", self.ids, self.filter, self.patch, self.mode, self.if_seq
        if self.vectors is None:
            ids = None if self.ids is None else sorted(set(self.ids))
            return "delete", ids, self.filter, self.if_seq
        assert self.ids is not None
        entries = [m or {} for m in self.metadata or [None] * len(self.ids)]
        terms = self.insert_only, self.if_seq, self.skips
        return "upsert", self.ids, self.vectors.tobytes(), entries, *terms


class StateModel(Model):
    """One collection from its creation on.

    Attributes:
        seq: of the last batch that was applied.
        version: id → seq of the batch that last changed it, of live ids.
        requests: request id → the batch that was applied under it, and its receipt.
    """

    def __init__(self, dim: int, metric: str) -> None:
        super().__init__(dim, metric)
        self.seq = 0
        self.version: dict[str, int] = {}
        self.requests: dict[str, tuple[Batch, vecdb.Receipt]] = {}

    def content(self) -> Content:
        """The rows as they are now, for comparing later."""
        return {
            name: (vector.tobytes(), json.dumps(entry))
            for name, (vector, entry) in self.rows.items()
        }

    def matching(self, condition: dict[str, Any]) -> Model:
        """The rows that match a filter."""
        found = Model(self.dim, self.metric)
        found.rows = {
            name: row for name, row in self.rows.items() if holds(condition, name, row[1])
        }
        return found

    def change(
        self, condition: dict[str, Any], metadata: dict[str, Any] | None, dry_run: bool
    ) -> vecdb.Receipt:
        """Give the rows that match other metadata, or delete them; the receipt."""
        before, names = self.content(), list(self.matching(condition).rows)
        if metadata is not None:
            names = [name for name in names if before[name][1] != json.dumps(metadata)]
        if not dry_run:
            self.seq += 1
            for name in names:
                if metadata is None:
                    del self.rows[name], self.version[name]
                else:
                    self.rows[name] = (self.rows[name][0], metadata)
                    self.version[name] = self.seq
        return vecdb.Receipt(self.seq, len(names))

    def write(self, batch: Batch) -> vecdb.Receipt | str:
        """Apply a batch; the receipt that it must get, or the reason why it must be refused."""
        if batch.request_id in self.requests:
            known, receipt = self.requests[batch.request_id]
            if known.asked() != batch.asked():
                return "REQUEST_ID_REUSED"
            return replace(receipt, repeated=True)
        ids = self.ids_matching(batch.filter) if batch.ids is None else batch.ids
        if batch.insert_only and self.version.keys() & set(ids):
            return "CONDITION_EXISTS"
        if batch.if_seq is not None and not self._is_as_read(ids, batch.if_seq):
            return "CONDITION_CHANGED"
        self.seq += 1
        skipped: list[str] = []
        if batch.patch is not None:
            skipped = [name for name in ids if name not in self.rows]
            count = self._patch([name for name in ids if name in self.rows], batch)
        elif batch.vectors is None:
            for name in ids:
                self.version.pop(name, None)
            count = self.delete(ids)
        else:
            skipped = [name for name in ids if batch.skips and name in self.rows]
            count = self._upsert(ids, batch, skipped)
        receipt = vecdb.Receipt(self.seq, count, skipped=tuple(skipped))
        if batch.request_id is not None:
            self.requests[batch.request_id] = (batch, receipt)
        return receipt

    def ids_matching(self, filter: dict[str, Any] | None) -> list[str]:
        """The ids of the rows that match."""
        predicate = parse_filter(filter).matches
        return [name for name, (_, entry) in self.rows.items() if predicate(name, entry)]

    def _is_as_read(self, ids: list[str], seq: int) -> bool:
        if seq > self.seq:
            return False
        if seq == 0:
            return not self.version.keys() & set(ids)
        return all(self.version.get(name, seq + 1) <= seq for name in ids)

    def _patch(self, ids: list[str], batch: Batch) -> int:
        """Change metadata; count the rows whose metadata differ afterwards."""
        count = 0
        for name in ids:
            vector, before = self.rows[name]
            if batch.mode == "delete_keys":
                entry = {key: value for key, value in before.items() if key not in batch.patch}
            else:
                entry = {**before, **batch.patch} if batch.mode == "merge" else batch.patch
            if json.dumps(entry) != json.dumps(before):
                self.rows[name] = (vector, entry)
                self.version[name] = self.seq
                count += 1
        return count

    def _upsert(self, ids: list[str], batch: Batch, skipped: list[str]) -> int:
        assert batch.vectors is not None
        before = self.content()
        places = [place for place, name in enumerate(ids) if name not in skipped]
        names = [ids[place] for place in places]
        metadata = batch.metadata and [batch.metadata[place] for place in places]
        self.upsert(names, batch.vectors[places], metadata)
        after = self.content()
        # What repeats the stored row, bit for bit, is no new version of it.
        changed = [name for name in names if before.get(name) != after[name]]
        self.version.update(dict.fromkeys(changed, self.seq))
        return len(names)


@dataclass
class OpenScroll:
    """A scroll between two pages. rows: all that it must bring. seen: what it has brought."""

    seq: int
    rows: Content
    batch: int
    token: str | None = None
    seen: Content = field(default_factory=dict)

    def add(self, page: vecdb.ScrollPage) -> bool:
        """Compare a page; True if it was the last one, and then all rows have come."""
        records = page.records
        assert records.seq == self.seq
        assert len(records) <= self.batch
        for name, vector, entry in zip(records.ids, records.vectors, records.metadata, strict=True):
            assert name not in self.seen
            self.seen[name] = (vector.tobytes(), json.dumps(entry))
            assert self.seen[name] == self.rows[name]
        self.token = page.next_token
        if self.token is None:
            assert self.seen == self.rows
            return True
        # A page is full unless it is the last.
        assert len(records) == self.batch
        return False
