"""Exports a collection at one seq as the bytes of an index file, while writers continue.

The bytes are generated in one pass and in bounded memory; nothing is spooled. Their number and
SHA-256 are known after the last byte, so the end message carries both, and the receiver can tell a
complete file from a truncated one. The content of the sidecar (number, id and metadata of each row)
is read afterwards by a scroll at the same seq, whose token the end message also carries. The scroll
returns the rows in the order of the file.

``source.py`` finds the graph. A flat export has none; it reads rows from the store page by page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from vecdb import limits
from vecdb.engine.hnsw.builder import file_pieces
from vecdb.engine.interchange.export.ids import numbers_of_texts
from vecdb.engine.interchange.export.lease import ExportLease
from vecdb.engine.interchange.export.source import GraphSource, find_graph
from vecdb.engine.interchange.faiss.write import flat_index, hnsw_index
from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.store.scroll import PageRequest, read_page
from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason
from vecdb.types import ExportEnd, Metric

if TYPE_CHECKING:
    from vecdb.engine.runtime.open_collection import OpenCollection
    from vecdb.engine.runtime.runtime import Runtime
    from vecdb.engine.system.deadline import Deadline

__all__ = ["CHUNK_BYTES", "ExportRequest", "export"]

CHUNK_BYTES = 1024**2

_BLOCK_ROWS = 65_536
Piece = bytes | memoryview


@dataclass(frozen=True)
class ExportRequest:
    """Format and options of an export.

    Attributes:
        kind: "faiss" (with the graph), "faiss_flat" (vectors only) or "hnswlib".
        normalize_queries: for cosine, write a FAISS file that normalises queries itself.
        chunk_bytes: size of each piece except the last.
    """

    kind: Literal["faiss", "faiss_flat", "hnswlib"]
    normalize_queries: bool = False
    chunk_bytes: int = CHUNK_BYTES


def export(
    runtime: Runtime, opened: OpenCollection, asked: ExportRequest, deadline: Deadline
) -> Generator[bytes | ExportEnd, None, None]:
    """Yield the pieces of the file, then the ``ExportEnd``.

    Close the generator if it is not read to its end: that releases the lease.

    Raises:
        InvalidArgumentError: BAD_METRIC: normalize_queries with another metric than cosine.
        ResourceExhaustedError: EXPORT_TOO_LARGE, TOO_MANY_SCROLLS, or the disk is full.
        DataLossError: rows of the store are damaged.
        DeadlineExceededError, CancelledError, NotFoundError, UnavailableError.
    """
    config = opened.store.config
    if asked.normalize_queries and config.metric is not Metric.COSINE:
        raise InvalidArgumentError(
            f"normalize_queries needs metric cosine, the collection has {config.metric}",
            Reason.BAD_METRIC,
        )
    lease = ExportLease(opened.store, opened.id)
    # Everything that may take longer than a lease polls the deadline, which therefore renews it.
    deadline = deadline.also(lease.renew)
    try:
        source: _Flat | _WithGraph
        if asked.kind == "faiss_flat":
            source = _Flat(opened, lease, deadline)
        else:
            source = _WithGraph(opened, find_graph(runtime, opened, lease, deadline), deadline)
        seq, size, digest = lease.seq, 0, hashlib.sha256()
        for chunk in _chunks(source.pieces(asked), asked.chunk_bytes):
            deadline.check()
            runtime.check_usable()
            digest.update(chunk)
            size += len(chunk)
            yield chunk
        yield ExportEnd(
            rows=source.count,
            seq=seq,
            bytes=size,
            sha256=digest.hexdigest(),
            work=source.work,
            work_s=source.work_s,
            numbered=source.numbered,
            token=lease.token(),
            config=config,
            # In every format: they all compare queries with unit vectors.
            normalized=config.metric is Metric.COSINE,
        )
        # Only after the yield: a caller that never received the token can't release the lease.
        lease.hand_over()
    finally:
        lease.release()


def _chunks(pieces: Iterable[Piece], size: int) -> Iterator[bytes]:
    """Yield the same bytes in pieces of equal size; the last one may be shorter."""
    held: list[Piece] = []
    count = 0
    for piece in pieces:
        rest = memoryview(piece)
        while len(rest):
            part = rest[: size - count]
            held.append(part)
            count += len(part)
            rest = rest[len(part) :]
            if count == size:
                yield b"".join(held)
                held, count = [], 0
    if held:
        yield b"".join(held)


class _WithGraph:
    """Rows of a graph segment, with its graph."""

    def __init__(self, opened: OpenCollection, found: GraphSource, deadline: Deadline) -> None:
        self._config, self._found, self._deadline = opened.store.config, found, deadline
        self.count, self.work, self.work_s = found.count, found.work, found.work_s

    @property
    def numbered(self) -> bool:
        return self._found.numbers is not None

    def pieces(self, asked: ExportRequest) -> Iterator[Piece]:
        config, found = self._config, self._found
        if asked.kind == "hnswlib":
            return file_pieces(
                found.graph,
                found.vectors(config.dim),
                found.numbers if found.numbers is not None else np.arange(found.count),
                width=config.dim,
                M=config.M,
                ef_construction=config.ef_construction,
                capacity=max(1, found.count),
            )
        assert limits.EF.default is not None
        return hnsw_index(
            found.graph,
            found.vectors(config.dim),
            self._ids(),
            dim=config.dim,
            metric=config.metric,
            M=config.M,
            ef_construction=config.ef_construction,
            ef_search=limits.EF.default,
            normalize_queries=asked.normalize_queries,
        )

    def _ids(self) -> Iterator[npt.NDArray[np.int64]]:
        numbers = self._found.numbers
        for first in range(0, self.count, _BLOCK_ROWS):
            end = min(self.count, first + _BLOCK_ROWS)
            yield np.arange(first, end) if numbers is None else numbers[first:end]


class _Flat:
    """Rows read from the store; normalised under cosine.

    ``numbered`` is known only after the last row was read.
    """

    work, work_s = "nothing", 0.0

    def __init__(self, opened: OpenCollection, lease: ExportLease, deadline: Deadline) -> None:
        self._opened, self._lease, self._deadline = opened, lease, deadline
        lease.take()
        self.count = lease.live_count
        self._numbers: list[npt.NDArray[np.int64]] | None = []

    @property
    def numbered(self) -> bool:
        return self._numbers is not None

    def pieces(self, asked: ExportRequest) -> Iterator[Piece]:
        config = self._opened.store.config
        return flat_index(
            self.count,
            self._vectors(),
            self._ids(),
            dim=config.dim,
            metric=config.metric,
            normalize_queries=asked.normalize_queries,
        )

    def _vectors(self) -> Iterator[npt.NDArray[np.float32]]:
        opened, config = self._opened, self._opened.store.config
        rows = max(1, min(limits.BATCH_ROWS.maximum, CHUNK_BYTES // (4 * config.dim)))
        wanted = PageRequest(rows, include_metadata=False)
        token: str | None = self._lease.token()
        while token is not None:
            # ends=False keeps the lease after the last page: the sidecar is read under it.
            records, token = read_page(
                opened.store, opened.id, token, wanted, self._deadline, ends=False
            )
            if self._numbers is not None:
                numbers = numbers_of_texts(records.ids)
                if numbers is None:
                    self._numbers = None
                else:
                    self._numbers.append(numbers)
            vectors = np.empty_like(records.vectors)
            load_kernels().prepare_rows(records.vectors, vectors, config.metric is Metric.COSINE)
            yield vectors

    def _ids(self) -> Iterator[npt.NDArray[np.int64]]:
        if self._numbers is not None:
            yield from self._numbers
            return
        for first in range(0, self.count, _BLOCK_ROWS):
            yield np.arange(first, min(self.count, first + _BLOCK_ROWS))
