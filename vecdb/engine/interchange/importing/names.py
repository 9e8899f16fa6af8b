"""Ids and metadata of an imported index's rows.

They come from the sidecar, a file of JSON Lines that our export writes, with the fields

    faiss_id   integer, the row's id in the index
    id         the row's id in the collection, text
    metadata   a JSON object, or its text, or null

in the order of the index. One of the objects also has a header (``vecdb/sidecar_header.py``). The
file is read line by line, twice: once before anything is written, and again together with the
vectors. A row without an entry gets the decimal text of its number in the index as id. Entries of
rows that the index does not have are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecdb import checks, json_objects, limits
from vecdb.engine.interchange.importing.foreign_index import ForeignIndex
from vecdb.errors import InvalidArgumentError
from vecdb.import_files import Sidecar
from vecdb.json_objects import NotJsonError
from vecdb.metadata_checks import DEFAULT_BYTES
from vecdb.reasons import Reason
from vecdb.row_names import RowNames
from vecdb.sidecar_header import KEY, SidecarHeader

__all__ = ["Names"]

_LINE_BYTES_MAX: Final = 1024**2
_PIECE_ROWS: Final = 1_000
_BOM: Final = b"\xef\xbb\xbf"

Entry = tuple[int, str, bytes]


class Names:
    """Ids and metadata of an index's rows.

    Args:
        meta: the sidecar, or None.
        metadata_bytes_max: most bytes of a row's metadata.

    Attributes:
        header: the sidecar's header, with the collection's settings; empty without one.

    Raises:
        InvalidArgumentError: BAD_META, with the line: an entry is invalid, or an id is a duplicate.
        NotFoundError: the sidecar does not exist.
    """

    def __init__(
        self,
        index: ForeignIndex,
        meta: Sidecar | None,
        metadata_bytes_max: int = DEFAULT_BYTES,
    ) -> None:
        self._index = index
        self._meta = meta
        self._metadata_bytes_max = metadata_bytes_max
        self._has_entry: npt.NDArray[np.bool_] | None = None
        self._in_index: npt.NDArray[np.bool_] | None = None
        self.header = SidecarHeader()
        if meta is not None:
            self._match(meta)
            self._check_unique(meta)

    def pieces(self, rows: int) -> Iterator[tuple[int, int, list[str], list[bytes]]]:
        """Yield (first, end, ids, metadata) of up to ``rows`` rows each.

        Without a sidecar the list of metadata is empty.
        """
        index, has_entry = self._index, self._has_entry
        entries = self._entries_of_index()
        for first, end in index.rows.pieces(rows):
            numbers = index.numbers(first, end)
            if has_entry is None:
                yield first, end, [str(number) for number in numbers], []
                continue
            ids, metadata = [], []
            for number, named in zip(numbers, has_entry[first:end].tolist(), strict=True):
                entry = next(entries, None) if named else (number, str(number), b"")
                if entry is None or entry[0] != number:
                    assert self._meta is not None
                    what = "the file was changed during the import"
                    raise _wrong(self._meta, f"row {number}", what)
                _, text, raw = entry
                ids.append(text)
                metadata.append(raw)
            yield first, end, ids, metadata

    def _entries_of_index(self) -> Iterator[Entry]:
        if self._meta is None or self._in_index is None:
            return
        for entry, known in zip(_entries(self._meta), self._in_index.tolist(), strict=False):
            if known:
                yield entry

    def _match(self, meta: Sidecar) -> None:
        """Match entries with rows of the index, in both directions, and read the header."""
        numbers: list[npt.NDArray[np.int64]] = []
        headers: list[SidecarHeader] = []
        entries = _entries(meta, headers)
        while piece := list(islice(entries, _PIECE_ROWS)):
            first = sum(map(len, numbers))
            numbers.append(np.array([entry[0] for entry in piece], np.int64))
            texts = [entry[1] for entry in piece]
            try:
                checks.check_ids(texts, unique=False, first=first)
                names = RowNames(first, texts)
                raw, most = [entry[2] for entry in piece], self._metadata_bytes_max
                checks.check_raw_metadata(raw, len(piece), names, most)
            except InvalidArgumentError as error:
                raise _wrong(meta, f"in the lines from {first + 1}", error.message) from None
        self.header = headers[0] if headers else self.header
        named = np.concatenate([np.zeros(0, np.int64), *numbers])
        index = self._index
        rows = np.arange(index.count) if index.ids is None else index.ids.astype(np.int64)
        self._in_index, self._has_entry = np.isin(named, rows), np.isin(rows, named)
        wanted, found = rows[self._has_entry], named[self._in_index]
        if len(found) > len(wanted):
            order = np.argsort(named, kind="stable")
            again = order[1:][named[order][1:] == named[order][:-1]]
            line = int(again[self._in_index[again]].min())
            raise _wrong(meta, f"line {line + 1}", f"duplicate faiss_id {named[line]}")
        differ = np.flatnonzero(wanted != found)
        if len(differ):
            line = int(np.flatnonzero(self._in_index)[differ[0]])
            what = f"expected faiss_id {wanted[differ[0]]}, in the index's order, got {named[line]}"
            raise _wrong(meta, f"line {line + 1}", what)

    def _check_unique(self, meta: Sidecar) -> None:
        seen: set[str] = set()
        for first, _, ids, _ in self.pieces(_PIECE_ROWS):
            for row, text in enumerate(ids, first):
                if text in seen:
                    raise _wrong(meta, f"row {row} of the index", f"duplicate id {text!r}")
                seen.add(text)


def _entries(meta: Sidecar, headers: list[SidecarHeader] | None = None) -> Iterator[Entry]:
    """Yield the entries of the file, and append its headers to ``headers`` unless that is None."""
    with meta.path.open("rb") as file:
        number, ended = 0, False
        while line := file.readline(_LINE_BYTES_MAX + 1):
            number += 1
            if len(line) > _LINE_BYTES_MAX:
                what = f"expected at most {_LINE_BYTES_MAX} bytes, got more"
                raise _wrong(meta, f"line {number}", what)
            found = _object(meta, number, line)
            if ended:
                what = f"a line with only {KEY} must be the last one, got another line"
                raise _wrong(meta, f"line {number}", what)
            if headers is not None and KEY in found:
                _add_header(meta, number, found[KEY], headers)
            ended = KEY in found and "faiss_id" not in found
            if not ended:
                yield _entry(meta, number, found)


def _add_header(meta: Sidecar, number: int, found: object, headers: list[SidecarHeader]) -> None:
    try:
        header = SidecarHeader.read(found)
    except InvalidArgumentError as error:
        raise _wrong(meta, f"line {number}", error.message) from None
    if headers and header != headers[0]:
        was, now = headers[0].as_json(), header.as_json()
        raise _wrong(meta, f"line {number}", f"expected the same {KEY} as before, {was}, got {now}")
    headers[:] = [header]


def _object(meta: Sidecar, number: int, line: bytes) -> dict[str, object]:
    place = f"line {number}"
    try:
        found: Any = json_objects.decode(line.removeprefix(_BOM) if number == 1 else line)
    except (NotJsonError, RecursionError) as error:
        raise _wrong(meta, place, f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise _wrong(meta, place, f"expected a JSON object, got {type(found).__name__}")
    return found


def _entry(meta: Sidecar, number: int, found: dict[str, object]) -> Entry:
    place = f"line {number}"
    faiss_id, text, metadata = (found.get(key) for key in ("faiss_id", "id", "metadata"))
    if type(faiss_id) is not int or not 0 <= faiss_id < 2**63:
        raise _wrong(meta, place, f"faiss_id must be an integer, 0 to 2**63 - 1, got {faiss_id!r}")
    if not isinstance(text, str):
        raise _wrong(meta, place, f"id must be text, got {type(text).__name__}")
    if isinstance(metadata, str):
        # Can't fail: the decoder refuses lines with lone surrogates.
        return faiss_id, text, metadata.encode()
    try:
        raw = checks.check_metadata([metadata], 1, bytes_max=limits.METADATA_BYTES.maximum)
    except InvalidArgumentError as error:
        raise _wrong(meta, place, error.message) from None
    return faiss_id, text, raw[0] if raw else b""


def _wrong(meta: Sidecar, place: str, what: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{meta}: {place}: {what}", Reason.BAD_META)
