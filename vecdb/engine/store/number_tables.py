"""Many values of ``layout.pack_u64`` whose keys are rows, packed and unpacked together.

Checksums are computed for one column of bytes at a time, over all values, which is many times
faster than value by value.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.store import layout
from vecdb.errors import DataLossError
from vecdb.reasons import Reason

__all__ = ["pack_numbers", "unpack_numbers"]

_KEY_BYTES, _VALUE_BYTES = 8, 12

_Bytes = npt.NDArray[np.uint8]


def pack_numbers(rows: npt.NDArray[np.uint64], number: int) -> list[tuple[bytes, bytes]]:
    """Return the keys of rows and, for each, ``pack_u64`` of one number."""
    keys = rows.astype(">u8")
    payload = np.frombuffer(number.to_bytes(_KEY_BYTES, "little"), np.uint8)
    crcs = _checksums(len(rows), (*keys.view(np.uint8).reshape(-1, _KEY_BYTES).T, *payload))
    values = np.empty((len(rows), _VALUE_BYTES), np.uint8)
    values[:, :8], values[:, 8:] = payload, crcs.astype("<u4").view(np.uint8).reshape(-1, 4)
    return list(zip(_split(keys.tobytes(), 8), _split(values.tobytes(), 12), strict=True))


def unpack_numbers(
    keys: bytes, values: bytes, what: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows and the numbers of many values, int64 (n,) each.

    Args:
        keys: 8 bytes each, concatenated. values: 12 bytes each.

    Raises:
        DataLossError: as ``layout.unpack_value``.
    """
    if _VALUE_BYTES * len(keys) != _KEY_BYTES * len(values):
        count = len(keys) // _KEY_BYTES
        raise DataLossError(
            f"{count} values ({what}) have {len(values)} bytes, expected {_VALUE_BYTES * count}",
            Reason.CHECKSUM,
        )
    key_bytes = np.frombuffer(keys, np.uint8).reshape(-1, _KEY_BYTES)
    value_bytes = np.frombuffer(values, np.uint8).reshape(-1, _VALUE_BYTES)
    crcs = _checksums(len(key_bytes), (*key_bytes.T, *value_bytes[:, :8].T))
    stored = np.ascontiguousarray(value_bytes[:, 8:]).view("<u4").ravel()
    wrong = np.flatnonzero(crcs != stored)
    if len(wrong):
        at = int(wrong[0])
        layout.unpack_value(keys[8 * at : 8 * at + 8], values[12 * at : 12 * at + 12], what)
    rows = key_bytes.view(">u8").ravel().astype(np.int64)
    numbers = np.ascontiguousarray(value_bytes[:, :8]).view("<u8").ravel().astype(np.int64)
    return rows, numbers


def _split(raw: bytes, size: int) -> list[bytes]:
    return [raw[at : at + size] for at in range(0, len(raw), size)]


def _checksums(count: int, columns: Iterable[_Bytes | np.uint8]) -> npt.NDArray[np.uint32]:
    """Return the CRC-32 of each of ``count`` texts, given column by column."""
    crc = np.full(count, 0xFFFFFFFF, np.uint32)
    for column in columns:
        crc = _CRC_TABLE[(crc ^ column) & 0xFF] ^ (crc >> np.uint32(8))
    checksums: npt.NDArray[np.uint32] = crc ^ np.uint32(0xFFFFFFFF)
    return checksums


def _crc_table() -> npt.NDArray[np.uint32]:
    """Return the table of a bytewise CRC-32 (reflected polynomial 0xEDB88320, zlib's)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, np.uint32(0xEDB88320) ^ (table >> 1), table >> 1)
    return table


_CRC_TABLE: Final = _crc_table()
