"""Methods of a collection, embedded and remote."""

from __future__ import annotations

from typing import Any, Protocol

from vecdb.surface.arguments import (
    Ids,
    MetadataEntry,
    StrPath,
)
from vecdb.surface.listing import ListingSurface
from vecdb.surface.searching import SearchSurface
from vecdb.surface.writing import WritingSurface
from vecdb.types import (
    CollectionStats,
    ExportReport,
    Records,
)

__all__ = ["CollectionSurface"]


class CollectionSurface(WritingSurface, ListingSurface, SearchSurface, Protocol):
    """A handle on a collection. Safe to use from many threads.

    The handle is bound to the collection that had the name when the handle was created. It keeps
    working after a rename. After a drop every call raises NotFoundError, even if a new collection
    has the name.
    """

    @property
    def name(self) -> str:
        """The name by which the handle was opened."""

    @property
    def metadata(self) -> dict[str, Any]:
        """The JSON of the collection itself, as it is now; {} if there is none.

        Raises:
            NotFoundError.
        """

    def set_collection_metadata(self, metadata: MetadataEntry) -> None:
        """Replace the JSON of the collection itself, which is for the caller's use.

        All processes see it at once: ``metadata`` and ``list_collections`` return it.

        Args:
            metadata: a dict of at most 64 KiB as JSON; None or {} for none.

        Raises:
            InvalidArgumentError: BAD_METADATA, METADATA_TOO_LARGE, METADATA_TOO_DEEP.
            NotFoundError.
        """

    def get(self, ids: Ids) -> Records:
        """Return rows by id: vectors bit for bit as given, metadata, and the missing ids.

        Args:
            ids: list of at most 10,000 str or integers.

        Raises:
            InvalidArgumentError, NotFoundError.

        Remote: a response that exceeds one message is fetched in pieces, each of one committed
            state. ``seq`` is their minimum, so ``if_seq`` may refuse more than necessary.
            ResourceExhaustedError: MESSAGE_TOO_LARGE: a single row exceeds a message.
        """

    def stats(self) -> CollectionStats:
        """Return rows, segments and bytes at one seq."""

    def optimize(self, timeout_s: float | None = None) -> CollectionStats:
        """Wait until all rows are in as few graphs as the limit on segment size allows.

        Results are correct without it. Writes and searches continue.

        Args:
            timeout_s: seconds to wait, None for no limit; the work continues after that.

        Raises:
            DeadlineExceededError: it takes longer.
            UnavailableError: there is no indexer (option ``indexer=False``).

        Remote: ResourceExhaustedError: too many of these calls are waiting on the server.
        """

    def export_faiss(
        self,
        path: StrPath,
        *,
        flat: bool = False,
        normalize_queries: bool = False,
        overwrite: bool = False,
        timeout_s: float | None = None,
    ) -> ExportReport:
        """Write a file for ``faiss.read_index``, with this collection's graph in it.

        The index is an IndexIDMap2 around an IndexHNSWFlat, ready to search. It holds all rows live
        at one seq, in the order in which they were added: vectors at unit length under cosine;
        inner products, or squared distances under Euclidean. The graph is the collection's own,
        repaired if some of its nodes are deleted. If rows are in no graph or in several, they are
        first brought into one. The seq therefore is one between call and end; later writes are not
        in the file. Writes and searches continue.

        If all ids are decimal integers below 2^63, they are the ids in FAISS; otherwise rows are
        numbered from 0. A sidecar, ``PATH.meta.parquet`` (``PATH.meta.jsonl`` without pyarrow), has
        each row's faiss_id, id and metadata.

        Args:
            path: in an existing folder; the file appears when it is complete.
            flat: vectors only, as an IndexFlat, without a graph.
            normalize_queries: under cosine, let FAISS normalize queries.
            overwrite: replace existing files.
            timeout_s: seconds to wait, None for no limit.

        Raises:
            AlreadyExistsError: PATH_TAKEN: the file or its sidecar exists.
            NotFoundError: NO_FOLDER, or the collection was dropped.
            InvalidArgumentError: normalize_queries under another metric than cosine.
            ResourceExhaustedError: EXPORT_TOO_LARGE: the rows do not fit one graph, use ``flat``;
                or a disk is full.
            DataLossError: stored bytes fail their checksum, or some were lost on the way.
            DeadlineExceededError: it takes longer.

        Remote: UnsupportedError: the server is too old.
        """

    def export_hnswlib(
        self, path: StrPath, *, overwrite: bool = False, timeout_s: float | None = None
    ) -> ExportReport:
        """Write a file for ``hnswlib.Index(space, dim).load_index``.

        The space is "cosine", "l2" or "ip" (for dot). Labels are the FAISS ids of ``export_faiss``;
        sidecar, arguments and errors are as there.
        """
