"""Vectors to bytes and back: the only module that knows the layout of a Matrix.

    rows * dim float32, row after row, little-endian:
    ┌ row 0 ─────────────────┬ row 1 ─────────────────┬ …
    │ c0 c1 … c(dim-1)       │ c0 c1 … c(dim-1)       │
    └ 4 bytes each ──────────┴────────────────────────┴ …

Decoded arrays are read-only views of the message's bytes, or writable copies if requested. Never
change the layout: it is part of ``vecdb.v1``.

These functions run in every call, just after its thread wakes up, when caches are cold and a call
into numpy takes several times as long as a benchmark loop shows. So they make as few as possible.
"""

from __future__ import annotations

import sys
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason
from vecdb_proto import vecdb_pb2

__all__ = ["decode_floats", "decode_matrix", "encode_floats", "encode_matrix"]

_FLOAT32: Final = int(vecdb_pb2.DTYPE_FLOAT32)
_SWAPS: Final = sys.byteorder == "big"

Floats = npt.NDArray[np.float32]


def encode_floats(numbers: npt.NDArray[np.generic]) -> bytes:
    """Encode numbers of any shape as float32, row-major."""
    if numbers.dtype != np.float32:
        numbers = numbers.astype(np.float32)
    return numbers.byteswap().tobytes() if _SWAPS else numbers.tobytes()


def decode_floats(data: bytes, *, writable: bool = False) -> Floats:
    """Decode bytes to float32, shape (len(data) / 4,); read-only unless ``writable``.

    Raises:
        InvalidArgumentError: MATRIX_SIZE: the length is not a multiple of 4.
    """
    if len(data) % 4:
        raise InvalidArgumentError(
            f"expected a multiple of 4 bytes, got {len(data)}", Reason.MATRIX_SIZE
        )
    numbers: Floats = np.frombuffer(bytearray(data) if writable else data, np.float32)
    return numbers.byteswap() if _SWAPS else numbers


def encode_matrix(vectors: npt.NDArray[np.generic]) -> vecdb_pb2.Matrix:
    """Encode vectors of shape (rows, dim) as a Matrix of float32."""
    rows, dim = vectors.shape
    return vecdb_pb2.Matrix(
        rows=rows, dim=dim, dtype=vecdb_pb2.DTYPE_FLOAT32, data=encode_floats(vectors)
    )


def decode_matrix(matrix: vecdb_pb2.Matrix, *, writable: bool = False) -> Floats:
    """Decode a Matrix to float32, shape (rows, dim); read-only unless ``writable``.

    Raises:
        InvalidArgumentError: MATRIX_DTYPE: an unknown type of numbers. MATRIX_SIZE: the data do not
            have 4 * rows * dim bytes.
    """
    if matrix.dtype != _FLOAT32:
        raise InvalidArgumentError(
            f"dtype must be {_FLOAT32} (DTYPE_FLOAT32), got {int(matrix.dtype)}",
            Reason.MATRIX_DTYPE,
        )
    rows, dim, data = matrix.rows, matrix.dim, matrix.data
    if len(data) != 4 * rows * dim:
        raise InvalidArgumentError(
            f"a matrix of {rows} rows and {dim} dimensions must have {4 * rows * dim} bytes, "
            f"got {len(data)}",
            Reason.MATRIX_SIZE,
        )
    return decode_floats(data, writable=writable).reshape(rows, dim)
