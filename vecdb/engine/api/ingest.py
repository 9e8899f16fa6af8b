"""``upsert_many`` of an embedded database: splits an input of any size into batches.

While the writer commits one batch, the next one is prepared and checked. Batches are committed in
the order of the input.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from vecdb import checks, limits
from vecdb.batching import attach_progress, batches, request_id_of_part
from vecdb.engine.store.batch import UpsertBatch, make_batch, make_write_options
from vecdb.errors import ResourceExhaustedError
from vecdb.types import CollectionConfig, IngestProgress, Receipt

__all__ = ["ingest"]

_BATCHES_IN_FLIGHT = 2


def ingest(
    submit: Callable[[UpsertBatch], Future[Receipt]],
    config: CollectionConfig,
    source: tuple[object, object, object],
    batch_rows: int,
    progress: Callable[[IngestProgress], None] | None,
    request_id: str | None,
    on_existing: str,
    metadata_bytes_max: int,
) -> IngestProgress:
    """Upsert an input of any size; see ``Collection.upsert_many``.

    Args:
        submit: queues a batch. source: ids, vectors, metadata.
    """
    began = time.monotonic()
    prefix = checks.check_request_id(request_id, limits.REQUEST_PREFIX_BYTES)
    checks.check_callable("progress", progress)
    parts = batches(*source, config.dim, batch_rows)
    done = IngestProgress(0, parts.total, 0, 0.0)
    checks.check_condition(False, None, on_existing)
    waiting: deque[Future[Receipt]] = deque()
    skipped_ids: list[str] = []
    # After a failed batch later receipts are not counted: progress is a prefix of the input.
    failed = False

    def settle(at_most: int) -> None:
        nonlocal done, failed
        while len(waiting) > at_most:
            answer = waiting.popleft()
            failed = failed or answer.exception() is not None
            receipt = answer.result()
            if failed:
                continue
            # A repeated batch has the seq of its first execution, which may be lower.
            rows = done.rows + receipt.count + len(receipt.skipped)
            seq, skipped = max(done.seq, receipt.seq), done.skipped + len(receipt.skipped)
            elapsed_s = time.monotonic() - began
            done = IngestProgress(rows, parts.total, seq, elapsed_s, skipped, receipt.skipped)
            skipped_ids.extend(receipt.skipped)
            if progress is not None:
                progress(done)

    try:
        for number, part in enumerate(parts, 1):
            write_options = make_write_options(
                False, None, request_id_of_part(prefix, number), on_existing
            )
            batch = make_batch(
                *checks.check_rows(*part[:3], config, part.first, metadata_bytes_max), write_options
            )
            try:
                waiting.append(submit(batch))
            except ResourceExhaustedError:
                # Our own queued batch may be what fills the queue; wait until it is written.
                if not waiting:
                    raise
                settle(0)
                waiting.append(submit(batch))
            settle(_BATCHES_IN_FLIGHT - 1)
        settle(0)
    except BaseException as error:
        with contextlib.suppress(Exception):
            settle(0)
        attach_progress(error, replace(done, skipped_ids=tuple(skipped_ids)))
        raise
    return replace(done, skipped_ids=tuple(skipped_ids))
