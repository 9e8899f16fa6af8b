"""Methods of a collection that write rows, embedded and remote."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from vecdb.surface.arguments import (
    FilterLike,
    Ids,
    Metadata,
    MetadataEntry,
    Patch,
    Vector,
    Vectors,
)
from vecdb.types import IngestProgress, Receipt

__all__ = ["WritingSurface"]


class WritingSurface(Protocol):
    """Writes of a collection; part of ``CollectionSurface``."""

    def upsert(
        self,
        ids: Ids,
        vectors: Vectors | None = None,
        metadata: Metadata | None = None,
        *,
        insert_only: bool = False,
        on_existing: str = "replace",
        if_seq: int | None = None,
        request_id: str | None = None,
    ) -> Receipt:
        """Write one batch atomically: add new ids, replace known ones.

        An entry replaces everything stored under its id. If its vector equals the stored one bit
        for bit, only the metadata is written.

        Args:
            ids: list of n str (or integers, which become their decimal text), without duplicates.
            vectors: float32, shape (n, dim); n is at most 10,000. Without ids nothing is written,
                and the receipt has the seq of the last batch.
            metadata: list of n dict or None; None for no metadata at all.
            insert_only: refuse the batch if any of its ids is live; ``on_existing="refuse"``.
            on_existing: what becomes of ids that are live. "replace"; "refuse": refuse the batch;
                "skip": leave them as they are and write the others. ``skipped`` of the receipt
                names them, ``count`` leaves them out. Not with the conditions.
            if_seq: refuse the batch unless every id is live and unchanged since this seq, at which
                it was read (``Records.seq``, ``info.seq``). 0: refuse it if any of them is live. A
                batch that writes the same row again is not a change; deleting an id and writing it
                again is.
            request_id: identifies this write, 1 to 64 bytes of UTF-8. Repeated within 24 hours with
                the same arguments, the write takes effect once. A repetition returns the first
                receipt with ``repeated`` set and does not evaluate the conditions again. A refused
                write may be tried again under its id.

        Returns:
            Receipt: the batch is fsynced, and every later read in any process sees it.

        Raises:
            InvalidArgumentError: nothing was written.
            ResourceExhaustedError, UnavailableError: nothing was written; retry later.
            ConditionFailedError: CONDITION_EXISTS, CONDITION_CHANGED: ``insert_only`` or ``if_seq``
                does not hold; nothing was written.
            FailedPreconditionError: REQUEST_ID_REUSED: another write had this id; nothing was
                written.
            OutcomeUnknownError: the batch was written whole or not at all; with a request id,
                repeat the call to find out.
            NotFoundError: the collection was dropped.

        Remote: rows that exceed one message (16 MiB, unless the server was started with another
            limit) are sent as several batches in order. Each batch is atomic, the call is not. The
            receipt has the seq of the last batch. If one fails, the error's ``progress`` says how
            many rows were written before it, a prefix of the input; otherwise it is None. With a
            condition such rows are refused (ResourceExhaustedError: MESSAGE_TOO_LARGE), as is a
            single row that exceeds a message. A write with a request id is sent again within the
            timeout if the connection breaks. Several batches get "<request_id>/1" and so on (then
            at most 48 bytes), and repeating the call takes effect once as long as the server has
            the same limit. After DeadlineExceededError the batch may still be applied.
        """

    def upsert_many(
        self,
        ids: Ids,
        vectors: Vectors | Iterable[Vector],
        metadata: Iterable[MetadataEntry] | None = None,
        *,
        batch_rows: int = 1000,
        on_existing: str = "replace",
        progress: Callable[[IngestProgress], None] | None = None,
        request_id: str | None = None,
    ) -> IngestProgress:
        """Write any number of rows in batches, in the order of the input.

        If an id occurs twice, the later row wins.

        Args:
            ids, vectors, metadata: as for ``upsert``, of any length, or iterables of rows.
            batch_rows: rows of a batch, 1 to 10,000.
            on_existing: as for ``upsert``. "refuse" refuses the first batch with an id that is live
                and ends the call; earlier batches stay. "skip": ``skipped_ids`` of the progress
                names the rows that were left as they are.
            progress: called in this thread after each acknowledged batch.
            request_id: at most 48 bytes; the batches get "<request_id>/1", "<request_id>/2" and so
                on. The call takes effect once, however often it is repeated within 24 hours with
                the same rows in the same order and the same ``batch_rows``. Split differently, it
                is refused with REQUEST_ID_REUSED.

        Returns:
            IngestProgress: all rows.

        Raises:
            VecdbError: as for ``upsert``; its ``progress`` says how many rows were acknowledged, a
                prefix of the input.

        Remote: two batches are in flight at a time; one that exceeds a message is split again.
            A request id also needs a server with the same limit on messages. After an error, the
            batch behind the acknowledged prefix may have been applied.
        """

    def delete(
        self,
        ids: Ids | None = None,
        *,
        filter: FilterLike | None = None,
        limit: int | None = None,
        dry_run: bool = False,
        if_seq: int | None = None,
        request_id: str | None = None,
    ) -> Receipt:
        """Delete rows by id, or the rows that match a filter, as one atomic batch.

        Args:
            ids: list of at most 10,000 str or integers; ids that are missing are ignored.
            filter: instead of ids, the rows that match when the batch is applied; {} for all.
            limit: with a filter, delete at most so many rows, 1 to 500,000, in the order in which
                they were added. Repeat the call until ``count`` is less to delete them all.
            dry_run: write nothing; ``count`` is how many rows would be deleted, and ``seq`` the
                state that they were counted in.
            if_seq, request_id: as for ``upsert``; with an ``if_seq`` above 0, a missing id refuses
                the batch. With a filter, ``if_seq`` is about the rows that match.

        Returns:
            Receipt: ``count`` is the number of rows deleted.

        Raises:
            InvalidArgumentError: BAD_TARGET: neither ids nor a filter were given, or both.
                BAD_FILTER.
            ResourceExhaustedError: TOO_MANY_MATCHES: more than 500,000 rows match, and there is no
                limit; nothing was written.
            UnavailableError: OVERTAKEN: other writes changed too many rows all the time;
                nothing was written, retry later.
            VecdbError: as for ``upsert``.

        Remote: ids that exceed one message are sent as several batches, as by ``upsert``.
        """

    def set_metadata(
        self,
        ids: Ids | None = None,
        patch: Patch | None = None,
        mode: str = "merge",
        *,
        filter: FilterLike | None = None,
        limit: int | None = None,
        dry_run: bool = False,
        if_seq: int | None = None,
        request_id: str | None = None,
    ) -> Receipt:
        """Change the metadata of rows by id, or of the rows that match a filter, as one atomic
        batch. Vectors and graphs stay as they are.

        Args:
            ids: list of at most 500,000 str or integers, without duplicates. Ids that do not exist
                are named by ``skipped`` of the receipt.
            patch: what changes; one for all rows, or a list with one for each id.
            mode: "merge": the keys of a dict are set, the row's other keys stay. Values are
                replaced whole, dicts too; None is a value. "replace": the dict becomes the row's
                metadata, {} for none. "delete_keys": the fields in a list of names, dotted as in
                filters ("author.name"), are removed; those that a row lacks are ignored.
            filter, limit, dry_run: as for ``delete``. The limit is of rows that change.
            if_seq, request_id: as for ``delete``. A change of metadata is a change of the row.

        Returns:
            Receipt: ``count`` is the number of rows whose metadata changed. A patch that leaves
            them as they are changes nothing.

        Raises:
            InvalidArgumentError: BAD_TARGET, BAD_FILTER; BAD_MODE; BAD_PATCH: the patch does not
                fit the mode. METADATA_TOO_LARGE: a row's metadata would exceed the limit; nothing
                was written.
            VecdbError: as for ``delete``.

        Remote: ids that exceed one message are sent as several batches, as by ``upsert``.
        """
