"""Nodes whose code is in a range: one by one during a walk, or all as a bitmap.

Columns give each node the code of its value (``segments/columns/field.py``): integers of 1, 2 or 4
bytes, all bits set for no value. Kernels take them as bytes, and ``shift``, the logarithm of the
size of one. Differences of unsigned integers wrap, so one comparison finds both ends of a range:
``code - low < span``; that of no value is beyond all codes.

A **gate** tells which nodes match, of a segment: by the delete bitmap that leaves only these, or
with a span above 0 by the range of their codes. Then no node has to be evaluated but those that a
walk meets.

    mask        uint8, the delete bitmap that also marks nodes that do not match
    codes       uint8, the codes as bytes
    dead        uint8, the delete bitmap of the segment
    shift, low, span
                see above
"""
# numba infers the types of compiled functions; an intrinsic is called without its first argument.
# mypy: disable-error-code="no-untyped-def, call-arg, arg-type, var-annotated"

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

from vecdb.engine.kernels.byte_instructions import load_half, load_word
from vecdb.engine.kernels.compiling import BYTES, INT, inlined, kernel, read, written
from vecdb.engine.kernels.inputs import is_deleted

__all__ = ["check_gate", "count_in_range", "is_outside", "mark_range", "may_hide"]

_BLOCK: Final = 4_096
"""Nodes compared before their bits are packed: they stay in the processor's first cache."""

_BITS_OF_BYTES: Final = np.uint64(0x0102_0408_1020_4080)
"""Times eight bytes that are 0 or 1, it has these as the bits of its last byte."""


@inlined
def may_hide(gate):
    """Return whether a gate leaves out any node: it may."""
    return True


@inlined
def is_outside(gate, node):
    """Return whether a gate leaves a node out."""
    mask, codes, dead, shift, low, span = gate
    if span == np.uint32(0):
        return is_deleted(mask, node)
    if dead.shape[0] > 0 and is_deleted(dead, node):
        return True
    if shift == 2:
        return np.uint32(load_word(codes, node << 2) - low) >= span
    if shift == 1:
        return np.uint32(np.uint16(load_half(codes, node << 1) - np.uint16(low))) >= span
    return np.uint32(np.uint8(codes[node] - np.uint8(low))) >= span


@inlined
def check_codes(codes, shift, n, low, span):
    """Raise ValueError unless there are so many codes, and the range is one of theirs."""
    if shift < 0 or shift > 2 or codes.shape[0] != n << shift:
        raise ValueError("code_ranges: codes of another size")
    if low < 0 or span < 0 or low + span > np.int64(1) << ((8 << shift) - 1):
        raise ValueError("code_ranges: a range beyond all codes")


@inlined
def check_gate(mask, codes, dead, shift, low, span, n):
    """Raise ValueError unless a gate is one of n nodes."""
    if span > 0:
        check_codes(codes, shift, n, low, span)
    if (span <= 0 and mask.shape[0] < (n + 7) >> 3) or 0 < dead.shape[0] < (n + 7) >> 3:
        raise ValueError("code_ranges: a bitmap that is too short")


@kernel(types.void(BYTES, INT, INT, INT, INT, written(types.uint8, 1)))
def mark_range(codes, shift, n, low, span, out):
    """Write the bitmap of the nodes whose code is in a range.

    Args:
        codes, shift: see the module docstring; of n nodes.
        low, span: the first code, and how many.
        out: uint8 ((n + 7) // 8,), written; bits past the last node are 0.
    """
    check_codes(codes, shift, n, low, span)
    if out.shape[0] != (n + 7) >> 3:
        raise ValueError("mark_range: a bitmap of another size")
    inside = np.empty(_BLOCK, np.uint8)
    words = inside.view(np.uint64)
    first, most = np.uint32(low), np.uint32(span)
    for start in range(0, n, _BLOCK):
        count = min(_BLOCK, n - start)
        if shift == 2:
            for i in range(count):
                inside[i] = np.uint32(load_word(codes, (start + i) << 2) - first) < most
        elif shift == 1:
            for i in range(count):
                code = load_half(codes, (start + i) << 1)
                inside[i] = np.uint32(np.uint16(code - np.uint16(first))) < most
        else:
            for i in range(count):
                inside[i] = np.uint32(np.uint8(codes[start + i] - np.uint8(first))) < most
        for i in range(count, (count + 7) & ~7):
            inside[i] = 0
        for i in range((count + 7) >> 3):
            out[(start >> 3) + i] = np.uint8((words[i] * _BITS_OF_BYTES) >> np.uint64(56))


@kernel(types.int64(BYTES, INT, INT, read(types.int64, 1), INT, INT))
def count_in_range(codes, shift, n, nodes, low, span):
    """Return how many of some nodes, int64, have a code in a range; nodes outside the rows do not
    count. The other arguments: as for ``mark_range``."""
    check_codes(codes, shift, n, low, span)
    nothing = np.empty(0, np.uint8)
    if span == 0:
        return np.int64(0)
    gate = (nothing, codes, nothing, shift, np.uint32(low), np.uint32(span))
    count = np.int64(0)
    for at in range(nodes.shape[0]):
        node = nodes[at]
        if 0 <= node < n and not is_outside(gate, node):
            count += 1
    return count
