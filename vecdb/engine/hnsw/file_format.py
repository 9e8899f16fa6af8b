"""The format of the file that hnswlib saves.

Little-endian, without padding:

    header     HEADER, 96 bytes
    level 0    n records (``record``): link count u16, deletion mark u8, 0 u8, 2M neighbours u32,
               the vector, label u64. Neighbours after the count are stale, not zeros.
    above      n times: size u32, then for each level 1.. of the node: count u32, M neighbours u32.
               size = levels * (4 + 4M), so most nodes have only the 4 bytes.

The file contains neither the metric nor the dimension.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

__all__ = ["HEADER", "record"]

# Offset of level 0, max_elements, n, bytes a record, label at, vector at, top level, entry,
# maxM, maxM0, M, 1 / ln M, ef_construction.
HEADER: Final = struct.Struct("<QQQQQQiIQQQdQ")


def record(M: int, width: int) -> np.dtype[np.void]:
    """Return the dtype of a node on level 0."""
    return np.dtype(
        [
            ("count", "<u2"),
            ("deleted", "u1"),
            ("zero", "u1"),
            ("links", "<u4", (2 * M,)),
            ("vector", "<f4", (width,)),
            ("label", "<u8"),
        ]
    )
