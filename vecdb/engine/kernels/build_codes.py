"""Codes of 8 bits a component, on which graphs are built in batches.

    encode_for_build  float32 rows -> codes
    code_score   the score of a row for another, from their codes

A code's row is whole cache lines: a byte for each component of the row minus a mean, in steps of
the row's own scale, with 128 for 0; then padding; in the last 8 bytes the scale and the squared
length, float32 each. The squared length is that of the coded row, so a score is the exact squared
distance of two coded rows, but for float32, up to the constant length of the second. For inner
products it is stored as 0: a score is then twice the negated inner product.

The sums of products are of integers, so scores are the same on every processor.
"""
# numba infers the types of compiled functions; an intrinsic is called without its first argument.
# mypy: disable-error-code="no-untyped-def, call-arg, arg-type"

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

from vecdb.engine.kernels.byte_instructions import LINE, dot_bytes, load_float, prefetch_bytes
from vecdb.engine.kernels.compiling import FLOATS, inlined, kernel, read, written

__all__ = ["CODES", "code_score", "encode_for_build", "prefetch_code", "to_signed"]

CODES: Final = read(types.uint8, 2)
"""The type of codes, uint8 (n, width), width a multiple of a cache line."""

_TAIL_BYTES: Final = 8  # Scale and squared length.
_MIDDLE: Final = 128
_LARGEST: Final = 127
_LINES_AHEAD: Final = 8  # Cache lines to prefetch of a row; more stall the prefetching.


@kernel(types.void(FLOATS, read(types.float32, 1), types.boolean, written(types.uint8, 2)))
def encode_for_build(rows, mean, inner, out):
    """Write the codes of rows.

    Args:
        rows: float32 (n, dim).
        mean: float32 (dim,), subtracted from each row; zeros for inner products.
        inner: whether scores are to be inner products.
        out: uint8 (n, width), written; width a multiple of 64, at least dim + 8.
    """
    n, dim = rows.shape
    width = out.shape[1]
    if out.shape[0] != n or width < dim + _TAIL_BYTES or width % LINE or mean.shape[0] != dim:
        raise ValueError("encode_for_build: arrays that don't belong together")
    centred, tail = np.empty(dim, np.float32), np.empty(2, np.float32)
    for i in range(n):
        most = np.float32(0)
        for j in range(dim):
            value = rows[i, j] - mean[j]
            centred[j] = value
            most = max(most, abs(value))
        scale = most / np.float32(_LARGEST)
        if not scale > np.float32(0):  # Also if it underflows.
            scale = np.float32(1)
        square = np.int64(0)
        for j in range(dim):
            step = np.int64(np.rint(centred[j] / scale))
            step = min(max(step, -_LARGEST), _LARGEST)
            out[i, j] = np.uint8(step + _MIDDLE)
            square += step * step
        out[i, dim:] = np.uint8(_MIDDLE)
        tail[0] = scale
        tail[1] = np.float32(0) if inner else scale * scale * np.float32(square)
        out[i, width - _TAIL_BYTES :] = tail.view(np.uint8)


@inlined
def to_signed(codes, node, dim, out):
    """Write the components of a row as int8; return what ``code_score`` needs besides, and the
    row's squared length.

    out: int8 (width,), zeros from dim on, where they meet the padding and the tail of other rows.
    """
    total, width = np.int32(0), codes.shape[1]
    for j in range(dim):
        value = np.int8(codes[node, j] ^ np.uint8(_MIDDLE))
        out[j] = value
        total += np.int32(value)
    tail = node * width + width - _TAIL_BYTES
    offset, weight = np.int32(_MIDDLE) * total, np.float32(2) * load_float(codes, tail)
    return offset, weight, load_float(codes, tail + 4)


@inlined
def code_score(data, node):
    """Return the score of a node; data is (codes, signed row, offset, weight)."""
    codes, signed, offset, weight = data
    width = codes.shape[1]
    begin = node * width
    tail = begin + width - _TAIL_BYTES
    product = np.float32(dot_bytes(codes, begin, signed, width) - offset)
    return load_float(codes, tail + 4) - weight * load_float(codes, tail) * product


@inlined
def prefetch_code(data, node):
    """Ask for the memory that ``code_score`` reads."""
    codes = data[0]
    prefetch_bytes(codes, node * codes.shape[1], min(codes.shape[1] // LINE, _LINES_AHEAD))
