"""The .npy files of a segment: mapping them and comparing them with the manifest.

The manifest records of each file what ``write_array`` returned: dtype, shape, size of the file and
the CRC-32 of its data. Mapping compares the size and the header, which costs nothing; the checksum
takes as long as reading the file.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from vecdb.errors import DataLossError
from vecdb.reasons import Reason

__all__ = ["ArrayRecord", "SegmentDamagedError", "array_path", "map_array", "verify_array"]

ArrayRecord = Mapping[str, Any]
"""What the manifest records of an array: dtype, shape, bytes, crc32."""

_CHUNK_BYTES: Final = 4 * 1024**2


class SegmentDamagedError(DataLossError):
    """The files of a segment differ from what the store records. No data is lost: rebuild it."""


def array_path(folder: Path, name: str) -> Path:
    """Return the file of an array."""
    return folder / f"{name}.npy"


def map_array(
    folder: Path, name: str, record: ArrayRecord
) -> tuple[npt.NDArray[Any], tuple[int, ...]]:
    """Map the file of an array.

    Returns:
        The array, read-only, and the inode and times of its file, which change when it
        is written to or replaced.

    Raises:
        FileNotFoundError: the file is gone.
        SegmentDamagedError: its size or header is not the recorded one.
    """
    path = array_path(folder, name)
    found = path.stat()
    if found.st_size != record["bytes"]:
        raise SegmentDamagedError(
            f"{path}: expected {record['bytes']} bytes, got {found.st_size}", Reason.SEGMENT
        )
    shape, dtype = tuple(record["shape"]), np.dtype(record["dtype"])
    data_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    signature = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
    with open(path, "rb") as file:
        header = _read_header(file)
        if header != (shape, False, dtype, record["bytes"] - data_bytes):
            raise SegmentDamagedError(
                f"{path}: expected a header of {dtype.str} {shape}, got {header}", Reason.SEGMENT
            )
        if data_bytes == 0:
            return np.zeros(shape, dtype), signature
        mapped = np.memmap(file, dtype, "r", header[3], shape)
    # A plain array over the map: kernels take it five times faster than a memmap object.
    plain: npt.NDArray[Any] = mapped.view(np.ndarray)
    return plain, signature


def verify_array(
    folder: Path, name: str, record: ArrayRecord, check: Callable[[], None] | None
) -> None:
    """Compare the checksum of an array with the recorded one; reads the whole file.

    Args:
        check: called between pieces of a few milliseconds, to raise if the work should end.

    Raises:
        FileNotFoundError: the file is gone.
        SegmentDamagedError: the checksum differs, or the header can't be read.
    """
    path = array_path(folder, name)
    with open(path, "rb") as file:
        _read_header(file)
        crc = 0
        while chunk := file.read(_CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
            if check is not None:
                check()
    if crc != record["crc32"]:
        raise SegmentDamagedError(
            f"{path}: expected CRC-32 {record['crc32']:08x}, got {crc:08x}: its bytes have changed",
            Reason.SEGMENT,
        )


_NPY_HEADER: Final = re.compile(
    rb"\{'descr': '([<>|][a-z][0-9]+)', 'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]+, ?)*[0-9]*)\), \} *\n"
)
"""The header of a .npy file of version 1.0 as NumPy writes it."""


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, whether in Fortran order, dtype and the offset of the data of a .npy file.

    Raises:
        SegmentDamagedError: the header can't be read.
    """
    # NumPy's own reader lets Python parse the header, and that parser can fail in one thread
    # because of what another thread parses: an intact segment would count as damaged.
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version}")
        header = file.read(int.from_bytes(file.read(2), "little"))
        found = _NPY_HEADER.fullmatch(header)
        if found is None:
            raise ValueError(f"{header[:80]!r}")
        shape = tuple(int(size) for size in found[3].split(b",") if size.strip())
        dtype = np.dtype(found[1].decode())
    except (ValueError, TypeError) as error:
        raise SegmentDamagedError(f"{file.name}: bad header ({error})", Reason.SEGMENT) from error
    return shape, found[2] == b"True", dtype, file.tell()
