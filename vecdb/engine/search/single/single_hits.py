"""What the kernels of single queries wrote, as hits."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.search.snapshots.lookup import read_few_records
from vecdb.engine.store.store import Store
from vecdb.errors import DataLossError
from vecdb.types import Hits, SearchInfo

__all__ = ["Results", "hits_of", "room_for"]

_METADATA_BYTES_MAX: Final = 128 * 1024
"""Up to this size of the metadata of all hits, the memory of a call is below what is counted
(``system/call_memory.py``)."""

Results = tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.float32]]
"""The arrays ``numbers``, ``text`` and ``distances`` of the kernels."""


def room_for(count: int, text_max: int) -> Results:
    """Return arrays for so many hits, whose ids take so many bytes at most."""
    return (
        np.empty(load_kernels().NUMBERS + 3 * count, np.int64),
        np.empty(text_max, np.uint8),
        np.empty(count, np.float32),
    )


def hits_of(
    store: Store, numbers: list[int], results: Results, seq: int, with_metadata: bool,
    info: SearchInfo,
) -> Hits | None:  # fmt: skip
    """Return the hits that were found; None if an id is not UTF-8, a record is damaged or was
    purged, or records are large.

    Args:
        numbers: those of ``results``, as a list.
        seq: of the snapshot, as of which records are read.
    """
    _, text, distances = results
    _, _, is_ascii, outside, _, end, *columns = numbers
    count = len(distances)
    starts, ends = columns[count : 2 * count], columns[2 * count :]
    encoded = text[:end].tobytes()
    if is_ascii:
        whole = encoded.decode("ascii")
        ids = [whole[start:end] for start, end in zip(starts, ends, strict=True)]
    else:
        try:
            ids = [encoded[start:end].decode() for start, end in zip(starts, ends, strict=True)]
        except UnicodeDecodeError:
            return None
    if not (with_metadata or outside):
        return Hits(ids, distances, None, None, info)
    # The ids of rows in no segment are in their records.
    at = range(count) if with_metadata else [i for i in range(count) if starts[i] < 0]
    try:
        records = read_few_records(store, [columns[i] for i in at], seq)
    except DataLossError:
        return None
    if outside:
        for i, (name, _) in zip(at, records, strict=True):
            ids[i] = name.decode()
    if not with_metadata:
        return Hits(ids, distances, None, None, info)
    raw = [metadata for _, metadata in records]
    if sum(map(len, raw)) > _METADATA_BYTES_MAX:
        return None
    return Hits(ids, distances, raw, None, info)
