"""``upsert_many``: an input of any size in batches, two of them under way at a time.

While the server writes one batch, the next is cut, checked and sent. Two calls of one client may
overtake each other on the way, so that a batch that has an id in common with one under way waits
for it: the later of two rows with the same id wins, as if one batch had come after the other.
The seq that is told is the greatest so far, so that a search at it sees all that was acknowledged.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb import checks, limits
from vecdb.batching import Batch, attach_progress, batches, request_id_of_part
from vecdb.errors import VecdbError
from vecdb.row_names import RowNames
from vecdb.types import IngestProgress
from vecdb_client.cutting import fitting
from vecdb_client.translation import Target, WriteFields
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import encode_matrix

if TYPE_CHECKING:
    from vecdb_client.calls import Calls
    from vecdb_client.collection import Collection
    from vecdb_client.connection import Begun

__all__ = ["ingest", "upsert_request"]

_UNDER_WAY_MAX: Final = 2

Progress = Callable[[IngestProgress], None]


def upsert_request(
    target: Target,
    ids: list[str],
    vectors: npt.NDArray[np.float32],
    metadata: list[bytes] | None,
    write_options: WriteFields,
) -> wire.UpsertRequest:
    """One batch that was checked. target: fields that name the collection. terms: as of
    ``translation.wire_write_options``."""
    return wire.UpsertRequest(
        **target, ids=ids, vectors=encode_matrix(vectors), metadata=metadata, **write_options
    )


def ingest(
    calls: Calls,
    collection: Collection,
    source: tuple[object, object, object],
    batch_rows: int,
    progress: Progress | None,
    request_id: str | None,
) -> IngestProgress:
    """See ``Collection.upsert_many``. source: ids, vectors, metadata."""
    job = _Ingest(calls, collection, progress)
    try:
        checks.check_callable("progress", progress)
        job.stem = checks.check_request_id(request_id, limits.REQUEST_STEM_BYTES)
        checks.check_limit(limits.BATCH_ROWS, batch_rows, "batch_rows")
        job.message_bytes = calls.server_message_bytes()
        rows = max(1, min(batch_rows, job.message_bytes // (4 * collection.dim)))
        parts = batches(*source, collection.dim, rows)
        job.begin(parts.total)
        for part in parts:
            job.send(part)
        job.settle(at_most=0)
        if job.done.rows == 0:
            collection.count()  # Nothing was sent; a dropped collection raises all the same.
    except Exception as error:
        job.let_finish()
        attach_progress(error, job.done)
        raise
    except BaseException as error:
        job.cancel()
        attach_progress(error, job.done)
        raise
    return job.done


class _UnderWay(NamedTuple):
    """A batch that was sent and not answered yet."""

    request: wire.UpsertRequest
    begun: Begun
    ids: set[str]


class _Ingest:
    """The state of one ``upsert_many``."""

    def __init__(self, calls: Calls, collection: Collection, progress: Progress | None) -> None:
        self._calls = calls
        self._collection = collection
        self._progress = progress
        self._began = time.monotonic()
        self._under_way: deque[_UnderWay] = deque()
        self._has_gap = False
        self._pieces = self._first = 0
        self.message_bytes = 0
        self.stem: str | None = None
        self.done = IngestProgress(0, None, 0, 0.0)

    def begin(self, total: int | None) -> None:
        """The input's length is known, or known to be unknown."""
        self.done = IngestProgress(0, total, 0, 0.0)

    def send(self, part: Batch) -> None:
        """Check a batch and send it as soon as there is a place for it."""
        rows = checks.check_rows(*part[:3], self._collection.config, part.first)
        self._first = part.first
        for request, sent_ids in self._fitting(*rows):
            self.settle(at_most=_UNDER_WAY_MAX - 1)
            while any(not sent_ids.isdisjoint(other.ids) for other in self._under_way):
                self.settle(at_most=len(self._under_way) - 1)
            begun = self._calls.start_write("Upsert", request)
            self._under_way.append(_UnderWay(request, begun, sent_ids))

    def _fitting(
        self, ids: list[str], vectors: npt.NDArray[np.float32], metadata: list[bytes] | None
    ) -> Iterator[tuple[wire.UpsertRequest, set[str]]]:
        """The batch as one request, or in halves of halves if a message can't hold it."""

        def build(rows: slice) -> wire.UpsertRequest:
            # Requests are numbered as they are sent, so that the same input cut in the same way has
            # the same request ids.
            request_id = request_id_of_part(self.stem, self._pieces + 1)
            write_options: WriteFields = {} if request_id is None else {"request_id": request_id}
            raw = None if metadata is None else metadata[rows]
            return upsert_request(
                self._collection._target, ids[rows], vectors[rows], raw, write_options
            )

        names = RowNames(self._first, ids)
        for request, rows in fitting(build, slice(0, len(ids)), self.message_bytes, names):
            self._pieces += 1
            yield request, set(ids[rows])

    def settle(self, at_most: int) -> None:
        """Wait for the oldest batches until ``at_most`` are under way; tell of each."""
        while len(self._under_way) > at_most:
            self._acknowledge_oldest()
            if self._progress is not None:
                self._progress(self.done)

    def _acknowledge_oldest(self) -> None:
        oldest = self._under_way.popleft()
        # While the answer is open, or if it is a failure, what comes behind is no prefix.
        self._has_gap = True
        response = self._calls.finish_write("Upsert", oldest.request, oldest.begun)
        self._has_gap = False
        self.done = IngestProgress(
            self.done.rows + len(oldest.ids),
            self.done.total,
            max(self.done.seq, response.seq),
            time.monotonic() - self._began,
        )

    def let_finish(self) -> None:
        """After a failure: wait for what is under way, so that nothing is written afterwards.

        It counts if all before it was acknowledged, as when the input itself was at fault.
        """
        while self._under_way:
            with suppress(VecdbError):
                if not self._has_gap:
                    self._acknowledge_oldest()
                else:
                    behind = self._under_way.popleft()
                    self._calls.finish_write("Upsert", behind.request, behind.begun)

    def cancel(self) -> None:
        """After an interrupt: don't wait for anything."""
        while self._under_way:
            # Here and in no other thread, which could wait for a lock that the interrupt left.
            self._under_way.popleft().begun.cancel()
