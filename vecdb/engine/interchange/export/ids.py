"""The integer ids of an export's rows.

FAISS and hnswlib identify rows by integers. If every id of the collection is a decimal integer
below 2^63 in canonical form (no sign, no leading zero), these integers are used. Otherwise rows are
numbered from 0 in the order in which they were added. The sidecar maps numbers to ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vecdb.engine.segments.segment import RowArrays

__all__ = ["numbers_of_content", "numbers_of_texts"]

_BLOCK_ROWS = 65_536
_DIGITS_MAX = 19  # Of 2^63 - 1; any 19 digits fit a uint64.
_ZERO = ord("0")


def numbers_of_content(
    content: RowArrays, nodes: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.int64] | None:
    """Return ids of a segment's nodes as integers; None unless all are canonical integers.

    Args:
        nodes: int64 (n,), ascending; None for all.

    Returns:
        int64 (n,).
    """
    count = len(content.rows) if nodes is None else len(nodes)
    numbers = np.empty(count, np.int64)
    for first in range(0, count, _BLOCK_ROWS):
        end = min(count, first + _BLOCK_ROWS)
        which = np.arange(first, end) if nodes is None else nodes[first:end]
        starts, ends = content.id_offsets[which], content.id_offsets[which + 1]
        if not _parse(content.id_bytes, starts, ends - starts, numbers[first:end]):
            return None
    return numbers


def numbers_of_texts(ids: Sequence[str]) -> npt.NDArray[np.int64] | None:
    """Return ids as integers, int64 (n,); None unless all are canonical integers."""
    numbers = np.empty(len(ids), np.int64)
    encoded = [each.encode() for each in ids]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    text = np.frombuffer(b"".join(encoded), np.uint8)
    return numbers if _parse(text, np.cumsum(lengths) - lengths, lengths, numbers) else None


def _parse(
    text: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.int64],
) -> bool:
    """Fill ``numbers``; return False if one of the texts is not a canonical integer."""
    if len(lengths) and (lengths.min() < 1 or lengths.max() > _DIGITS_MAX):
        return False
    for length in np.unique(lengths).tolist():
        which = np.flatnonzero(lengths == length)
        digits = text[starts[which][:, None] + np.arange(length)] - np.uint8(_ZERO)
        if (digits > 9).any() or (length > 1 and (digits[:, 0] == 0).any()):
            return False
        values = np.zeros(len(which), np.uint64)
        for place in range(length):
            values = values * np.uint64(10) + digits[:, place]
        if (values >= np.uint64(2**63)).any():
            return False
        numbers[which] = values.astype(np.int64)
    return True
