"""``upsert_many``: an input of any size in batches, two of them in flight at a time.

While the server writes one batch, the next is checked and sent. Two calls of a client may
arrive in either order. So a batch that shares an id with one in flight waits for it, and the later
of two rows with the same id wins, as if the batches were sent one after another. The reported seq
is the greatest so far, so a search at it sees all acknowledged rows.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb import checks, limits
from vecdb.batching import Batch, attach_progress, batches, request_id_of_part
from vecdb.errors import VecdbError
from vecdb.row_names import RowNames
from vecdb.types import CollectionConfig, IngestProgress
from vecdb_client.cutting import fitting
from vecdb_client.translation import Target, WriteFields, wire_write_options
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import encode_matrix

if TYPE_CHECKING:
    from vecdb_client.calls import Calls
    from vecdb_client.connection import Begun

__all__ = ["ingest", "upsert_request"]

_IN_FLIGHT_MAX: Final = 2

Progress = Callable[[IngestProgress], None]


def upsert_request(
    target: Target,
    ids: list[str],
    vectors: npt.NDArray[np.float32],
    metadata: list[bytes] | None,
    write_options: WriteFields,
    skip_existing: bool = False,
) -> wire.UpsertRequest:
    """Return the request for a checked batch.

    Args:
        target: fields that address the collection.
        ids, vectors, metadata: as returned by ``checks.check_rows``.
        write_options: fields of ``translation.wire_write_options``.
        skip_existing: leave rows that exist as they are.
    """
    existing = wire.ON_EXISTING_SKIP if skip_existing else wire.ON_EXISTING_UNSPECIFIED
    matrix = encode_matrix(vectors)
    return wire.UpsertRequest(
        **target,
        ids=ids,
        vectors=matrix,
        metadata=metadata,
        on_existing=existing,
        **write_options,
    )


def ingest(
    calls: Calls,
    target: Target,
    config: CollectionConfig,
    source: tuple[object, object, object],
    batch_rows: int,
    progress: Progress | None,
    request_id: str | None,
    on_existing: str = "replace",
) -> IngestProgress:
    """Run ``Collection.upsert_many``.

    Args:
        target, config: fields that address the collection, and its configuration.
        source: ids, vectors, metadata.
    """
    job = _Ingest(calls, target, config, progress)
    try:
        job.write_options = wire_write_options(False, None, None, on_existing)
        if on_existing == "skip":
            job.skip_existing = True
            calls.require("on_existing")
        checks.check_callable("progress", progress)
        job.request_prefix = checks.check_request_id(request_id, limits.REQUEST_PREFIX_BYTES)
        checks.check_limit(limits.BATCH_ROWS, batch_rows, "batch_rows")
        job.message_bytes = calls.server_message_bytes()
        rows = max(1, min(batch_rows, job.message_bytes // (4 * config.dim)))
        parts = batches(*source, config.dim, rows)
        job.begin(parts.total)
        for part in parts:
            job.send(part)
        job.settle(at_most=0)
        if job.done.rows == 0:
            # Nothing was sent; raise if the collection was dropped.
            calls.read("Count", wire.CountRequest(**target))
    except Exception as error:
        job.let_finish()
        attach_progress(error, job.whole())
        raise
    except BaseException as error:
        job.cancel()
        attach_progress(error, job.whole())
        raise
    return job.whole()


class _InFlight(NamedTuple):
    """A batch that was sent and not answered yet."""

    request: wire.UpsertRequest
    begun: Begun
    ids: set[str]


class _Ingest:
    """The state of one ``upsert_many``."""

    def __init__(
        self, calls: Calls, target: Target, config: CollectionConfig, progress: Progress | None
    ) -> None:
        self._calls = calls
        self._target = target
        self._config = config
        self._progress = progress
        self._began = time.monotonic()
        self._in_flight: deque[_InFlight] = deque()
        self._has_gap = False
        self._pieces = self._first = 0
        self._skipped_ids: list[str] = []
        self.message_bytes = 0
        self.request_prefix: str | None = None
        self.write_options: WriteFields = {}
        self.skip_existing = False
        self.done = IngestProgress(0, None, 0, 0.0)

    def begin(self, total: int | None) -> None:
        """Set the number of rows of the input; None if it is not known."""
        self.done = IngestProgress(0, total, 0, 0.0)

    def whole(self) -> IngestProgress:
        """Return the progress with the ids that all batches skipped."""
        return replace(self.done, skipped_ids=tuple(self._skipped_ids))

    def send(self, part: Batch) -> None:
        """Check a batch, and send it as soon as fewer than two are in flight."""
        rows = checks.check_rows(
            *part[:3], self._config, part.first, self._calls.metadata_bytes_max
        )
        self._first = part.first
        for request, sent_ids in self._fitting(*rows):
            self.settle(at_most=_IN_FLIGHT_MAX - 1)
            while any(not sent_ids.isdisjoint(other.ids) for other in self._in_flight):
                self.settle(at_most=len(self._in_flight) - 1)
            begun = self._calls.start_write("Upsert", request)
            self._in_flight.append(_InFlight(request, begun, sent_ids))

    def _fitting(
        self, ids: list[str], vectors: npt.NDArray[np.float32], metadata: list[bytes] | None
    ) -> Iterator[tuple[wire.UpsertRequest, set[str]]]:
        """Yield requests for the batch with their ids; see ``cutting.fitting``."""

        def build(rows: slice) -> wire.UpsertRequest:
            # Numbered in the order of sending, so that the same input, divided in the same way,
            # gets the same request ids.
            request_id = request_id_of_part(self.request_prefix, self._pieces + 1)
            write_options = self.write_options
            if request_id is not None:
                write_options = {**write_options, "request_id": request_id}
            raw = None if metadata is None else metadata[rows]
            some = self._target, ids[rows], vectors[rows], raw, write_options
            return upsert_request(*some, self.skip_existing)

        names = RowNames(self._first, ids)
        for request, rows in fitting(build, slice(0, len(ids)), self.message_bytes, names):
            self._pieces += 1
            yield request, set(ids[rows])

    def settle(self, at_most: int) -> None:
        """Wait until at most ``at_most`` batches are in flight; report the progress after each."""
        while len(self._in_flight) > at_most:
            self._acknowledge_oldest()
            if self._progress is not None:
                self._progress(self.done)

    def _acknowledge_oldest(self) -> None:
        oldest = self._in_flight.popleft()
        # Until the answer has arrived, or if it is an error, later batches are not a prefix of the
        # input.
        self._has_gap = True
        response = self._calls.finish_write("Upsert", oldest.request, oldest.begun)
        self._has_gap = False
        ids = oldest.request.ids
        skipped_ids = tuple(ids[place] for place in response.skipped)
        self._skipped_ids.extend(skipped_ids)
        self.done = IngestProgress(
            self.done.rows + len(oldest.ids),
            self.done.total,
            max(self.done.seq, response.seq),
            time.monotonic() - self._began,
            self.done.skipped + len(skipped_ids),
            skipped_ids,
        )

    def let_finish(self) -> None:
        """After an error, wait for the batches in flight, so that nothing is written later.

        They count as acknowledged if all earlier ones were, as when the input caused the error.
        """
        while self._in_flight:
            with suppress(VecdbError):
                if not self._has_gap:
                    self._acknowledge_oldest()
                else:
                    behind = self._in_flight.popleft()
                    self._calls.finish_write("Upsert", behind.request, behind.begun)

    def cancel(self) -> None:
        """After an interrupt, cancel the batches in flight without waiting."""
        while self._in_flight:
            # In this thread: the interrupt may have left a lock held by this thread, on which
            # another one would block.
            self._in_flight.popleft().begun.cancel()
