"""Scores by sketches: coded rows of one or a few cache lines.

A **sketch** (``segments/codecs/sketch.py`` makes them) holds a row's 4-bit **heads**, its products
with a few directions, and two numbers. A line of 64 bytes:

    byte    0        1        …  55        56 … 63 of the last line
    low     head 0   head 1      head 55   bfloat16 scale, 2 bytes free, float32 squared length
    high    head 56  head 57     head 111

The lines before the last have heads in all 64 bytes, 64 low and then 64 high ones. A head h stands
for ``scale * (h - 7.5)``; the squared length is that of the centred row, 0 for inner products. So
the estimate of a squared distance, up to the constant |q|², is

    length - scale * (sum of h * query head - offset) * weight

where the query's heads are bytes, ``offset`` is 7.5 times their sum, and ``weight`` holds their
scale, the factor 2 of the squared distance, and the segment's slope.

All of it is the same on every processor: sums of products are of integers, and floats are added in
the order in which they stand.
"""
# numba infers the types of compiled functions; an intrinsic is called without its first argument.
# mypy: disable-error-code="no-untyped-def, call-arg, arg-type, var-annotated"

from __future__ import annotations

from typing import Final

import numpy as np

from vecdb.engine.kernels.byte_instructions import (
    LINE,
    dot_bytes,
    dot_four_heads,
    dot_heads,
    load_float,
    load_half,
    prefetch_bytes,
)
from vecdb.engine.kernels.candidates import pack
from vecdb.engine.kernels.compiling import inlined

__all__ = [
    "HEADS_OF_LINE",
    "check_sketches",
    "estimate",
    "estimate_all",
    "prefetch_sketch",
    "prepare_query",
]

HEADS_OF_LINE: Final = 128
FACTOR_BYTES: Final = 8
_BYTE_MAX: Final = 127  # Bytes of a query lie in -127 to 127.
_MIDDLE: Final = 7.5  # Of the values of four bits.
_LEAST, _MOST = 1e-30, 3e38


@inlined
def check_sketches(sketches, queries, mean, basis, basis_steps):
    """Raise ValueError unless sketches, queries, mean and directions belong together."""
    lines, (heads, width) = sketches.shape[1] >> 6, basis.shape
    if (
        sketches.shape[1] != lines * LINE
        or mean.shape[0] not in (0, queries.shape[1])
        or width < queries.shape[1]
        or width % LINE != 0
        or heads > lines * HEADS_OF_LINE - 2 * FACTOR_BYTES
        or basis_steps.shape[0] != heads
    ):
        raise ValueError("kernels: sketches and directions that don't belong together")


@inlined
def float_of_half(bits):
    """Return what a bfloat16, the upper half of a float32, stands for."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@inlined
def estimate(data, node):
    """Return the estimated score of a node; data as ``prepare_query`` returns it."""
    sketches, query_heads, lines, _, _ = data
    return score_by_product(
        data, node, dot_heads(sketches, node * lines * LINE, query_heads, lines)
    )


@inlined
def score_by_product(data, node, product):
    sketches, _, lines, offset, weight = data
    factors = (node + 1) * lines * LINE - FACTOR_BYTES
    scale = float_of_half(load_half(sketches, factors))
    return load_float(sketches, factors + 4) - scale * (np.float32(product) - offset) * weight


@inlined
def estimate_all(data, nodes, first, end, keys, out):
    """Write the keys of nodes[first:end] to keys, from out on: by fours, then one by one."""
    sketches, query_heads, lines, _, _ = data
    size, whole = lines * LINE, end - (end - first) % 4
    for i in range(first, whole, 4):
        some = (
            np.int64(nodes[i]), np.int64(nodes[i + 1]), np.int64(nodes[i + 2]),
            np.int64(nodes[i + 3]),
        )  # fmt: skip
        offsets = some[0] * size, some[1] * size, some[2] * size, some[3] * size
        products = dot_four_heads(sketches, offsets, query_heads, lines)
        for part in range(4):
            node = some[part]
            score = score_by_product(data, node, products[part])
            keys[out + i - first + part] = pack(score, node)
    for i in range(whole, end):
        node = np.int64(nodes[i])
        keys[out + i - first] = pack(estimate(data, node), node)


@inlined
def prefetch_sketch(data, node):
    """Ask for the memory that ``estimate`` reads."""
    prefetch_bytes(data[0], node * data[2] * LINE, data[2])


@inlined
def to_bytes(values, count, out):
    """Write values as bytes; return the step between two bytes, and the sum of the bytes.

    Values that are all too small count as 0: their step would have no inverse in float32. Those of
    damaged files may be NaN or infinite: they count as 0 as well, which no conversion changes.
    """
    most = np.float32(0)
    for i in range(count):
        size = abs(values[i])
        most = size if size > most else most
    usable = most >= np.float32(_LEAST) and most <= np.float32(_MOST)
    step = most / np.float32(_BYTE_MAX) if usable else np.float32(1)
    inverse = np.float32(1) / step if usable else np.float32(0)
    total = np.int32(0)
    for i in range(count):
        value = values[i] * inverse
        code = np.int32(np.rint(value)) if abs(value) <= np.float32(2 * _BYTE_MAX) else np.int32(0)
        out[i] = np.int8(code)
        total += code
    return step, total


@inlined
def prepare_query(
    queries, query, mean, basis, basis_steps, lines, slope, floats, query_bytes, head_bytes,
    query_heads,
):  # fmt: skip
    """Write the query's heads as bytes; return offset and weight of ``estimate``, and the squared
    length of the centred query."""
    dim, width, heads = queries.shape[1], basis.shape[1], basis.shape[0]
    centred = mean.shape[0] == dim
    for i in range(dim):
        floats[i] = queries[query, i] - mean[i] if centred else queries[query, i]
    length = np.float32(0)
    for i in range(dim):
        length += floats[i] * floats[i]
    step, total = to_bytes(floats, dim, query_bytes)
    middle = np.int32(128) * total
    for i in range(heads):
        floats[i] = basis_steps[i] * np.float32(
            dot_bytes(basis, i * width, query_bytes, width) - middle
        )
    head_step, total = to_bytes(floats, heads, head_bytes)
    last = lines * HEADS_OF_LINE - HEADS_OF_LINE
    for i in range(heads):
        # Within the last line, 56 of the low bits are heads, then come 56 of the high bits.
        place = last + (i - last) + (8 if i - last >= 56 else 0) if i >= last else i
        query_heads[place] = head_bytes[i]
    weight = step * head_step * slope * np.float32(2 if centred else 1)
    return np.float32(_MIDDLE) * np.float32(total), weight, length
