"""Instructions that numba does not emit, as intrinsics of generic LLVM, valid on any processor.

    inner_product, squared_distance   of a row and a query
    prefetch_row                      the first cache lines of a row
    insert_into_block                 a key into a sorted array, eight entries at a time

They check no bounds; their callers do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.types import Type
from numba.extending import intrinsic

__all__ = [
    "BLOCK",
    "LANES",
    "inner_product",
    "insert_into_block",
    "prefetch_row",
    "squared_distance",
]

LANES: Final = 16
"""Floats in a cache line; rows are padded with zeros to a multiple of this."""

BLOCK: Final = 8
"""Entries that ``insert_into_block`` moves."""

_INT32, _INT64, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_VECTOR, _POINTER = ir.VectorType(_FLOAT, LANES), ir.PointerType()
_BLOCK_TYPE, _LANE_0 = ir.VectorType(_INT64, BLOCK), ir.Constant(_INT32, 0)


def _row_pointer(
    context: Any, builder: Any, array_type: types.Array, array: ir.Value, row: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Emit the address and the length of a row of a C array, without a bounds check."""
    struct = context.make_array(array_type)(context, builder, array)
    length = builder.extract_value(struct.shape, array_type.ndim - 1)
    element = context.get_data_type(array_type.dtype)
    offset = builder.mul(row, length)
    data = builder.bitcast(struct.data, _POINTER)
    return builder.gep(data, [offset], source_etype=element), length


def _emit_accumulation(builder: Any, row: Any, query: Any, length: Any, squared: bool) -> ir.Value:
    """Emit a sum over a row: 16 lanes at a time into four accumulators, added in a fixed order."""
    fused = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), "llvm.fmuladd.v16f32"
    )
    zero = ir.Constant(_VECTOR, [0.0] * LANES)
    sums = [cgutils.alloca_once_value(builder, zero) for _ in range(4)]

    def load(base: ir.Value, index: ir.Value) -> ir.Value:
        return builder.load(builder.gep(base, [index], source_etype=_FLOAT), align=4, typ=_VECTOR)

    def add(index: ir.Value, total: ir.Value) -> None:
        left, right = load(row, index), load(query, index)
        if squared:
            left = right = builder.fsub(left, right)
        builder.store(builder.call(fused, [left, right, builder.load(total, typ=_VECTOR)]), total)

    def constant(value: int) -> ir.Value:
        return ir.Constant(_INT64, value)

    whole = builder.and_(length, constant(~(4 * LANES - 1)))
    with cgutils.for_range_slice(builder, constant(0), whole, constant(4 * LANES)) as (index, _):
        for part, total in enumerate(sums):
            add(builder.add(index, constant(part * LANES)), total)
    with cgutils.for_range_slice(builder, whole, length, constant(LANES)) as (index, _):
        add(index, sums[0])
    a, b, c, d = (builder.load(total, typ=_VECTOR) for total in sums)
    vector = builder.fadd(builder.fadd(a, b), builder.fadd(c, d))
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        low, high = (
            ir.Constant(ir.VectorType(_INT32, lanes), list(range(start, start + lanes)))
            for start in (0, lanes)
        )
        vector = builder.fadd(
            builder.shuffle_vector(vector, vector, low),
            builder.shuffle_vector(vector, vector, high),
        )
    return builder.extract_element(vector, ir.Constant(_INT32, 0))


def _pairwise(squared: bool) -> Callable[..., Any]:
    def declare(typing_context: object, rows: Type, row: Type, queries: Type, query: Type) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> ir.Value:
            rows_, row_, queries_, query_ = arguments
            left, length = _row_pointer(context, builder, signature.args[0], rows_, row_)
            right, _ = _row_pointer(context, builder, signature.args[2], queries_, query_)
            return _emit_accumulation(builder, left, right, length, squared)

        return types.float32(rows, types.int64, queries, types.int64), generate

    return declare


inner_product = intrinsic(_pairwise(squared=False))
squared_distance = intrinsic(_pairwise(squared=True))


@intrinsic
def prefetch_row(typing_context: object, array: Type, row: Type, lines_max: Type) -> Any:
    """Prefetch the first cache lines of a row of a two-dimensional array; never faults."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> ir.Value:
        pointer, length = _row_pointer(
            context, builder, signature.args[0], arguments[0], arguments[1]
        )
        ask = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [_POINTER, _INT32, _INT32, _INT32]),
            "llvm.prefetch.p0",
        )
        limit = builder.mul(arguments[2], ir.Constant(_INT64, LANES))
        stop = builder.select(builder.icmp_signed("<", length, limit), length, limit)
        read_keep_data = [ir.Constant(_INT32, value) for value in (0, 3, 1)]
        start, step = ir.Constant(_INT64, 0), ir.Constant(_INT64, LANES)
        with cgutils.for_range_slice(builder, start, stop, step) as (index, _):
            builder.call(ask, [builder.gep(pointer, [index], source_etype=_FLOAT), *read_keep_data])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), generate


@intrinsic
def insert_into_block(typing_context: object, pool: Type, start: Type, key: Type) -> Any:
    """Insert a key into eight entries of an ascending array of uint64, from start on, of which the
    last is to be dropped: it has moved on already.

    Each entry becomes the greater of the one before it and the lesser of itself and key. So start
    must be above 0, and if the entry before it is not below key, a place for key is still to be
    found further to the front.

    Returns:
        How many of the eight entries from start - 1 on were below key.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> ir.Value:
        array, start_, key_ = arguments
        data = context.make_array(signature.args[0])(context, builder, array).data
        data = builder.bitcast(data, _POINTER)
        choice = ir.FunctionType(_BLOCK_TYPE, [_BLOCK_TYPE] * 2)
        lesser, greater = (
            cgutils.get_or_insert_function(builder.module, choice, f"llvm.{name}.v8i64")
            for name in ("umin", "umax")
        )

        def place(at: ir.Value) -> ir.Value:
            return builder.gep(data, [at], source_etype=_INT64)

        one = builder.insert_element(ir.Constant(_BLOCK_TYPE, ir.Undefined), key_, _LANE_0)
        same = ir.Constant(ir.VectorType(_INT32, BLOCK), [0] * BLOCK)
        keys = builder.shuffle_vector(one, one, same)
        here = builder.load(place(start_), align=8, typ=_BLOCK_TYPE)
        before = builder.sub(start_, ir.Constant(_INT64, 1))
        ahead = builder.load(place(before), align=8, typ=_BLOCK_TYPE)
        moved = builder.call(greater, [ahead, builder.call(lesser, [here, keys])])
        target = builder.bitcast(place(start_), ir.PointerType(_BLOCK_TYPE))
        builder.store(moved, target, align=8)
        below = builder.bitcast(builder.icmp_unsigned("<", ahead, keys), ir.IntType(BLOCK))
        return builder.zext(builder.ctpop(below), _INT64)

    return types.int64(pool, types.int64, types.uint64), generate
