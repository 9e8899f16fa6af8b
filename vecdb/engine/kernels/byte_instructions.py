"""Instructions on bytes that numba does not emit: sums of products, unaligned loads, prefetching.

The sums are of integers, so they are the same on every processor: one VNNI instruction for 64
products where the processor has it, else generic LLVM instructions. No bounds are checked; the
callers do.
"""
# An intrinsic is called without its first argument.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, arg-type"

from __future__ import annotations

from typing import Final

from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "LINE",
    "VNNI",
    "dot_block",
    "dot_bytes",
    "dot_four_heads",
    "dot_heads",
    "load_float",
    "load_half",
    "load_word",
    "prefetch_bytes",
]

LINE: Final = 64
"""Bytes of a cache line."""


def _has_vnni() -> bool:
    """Return whether the processor that numba compiles for has AVX-512 VNNI."""
    name, features = (getattr(config, key, None) for key in ("CPU_NAME", "CPU_FEATURES"))
    if name or features:
        return "+avx512vnni" in (features or "").split(",")
    return bool(binding.get_host_cpu_features().get("avx512vnni", False))


VNNI: Final = _has_vnni()

_I8, _I16, _I32, _I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_F32, _POINTER = ir.FloatType(), ir.PointerType()
_LANES = ir.VectorType(_I32, 16)


def _byte_pointer(context, builder, kind, array, offset):
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(builder.bitcast(data, _POINTER), [offset], source_etype=_I8)


def _load_lanes(builder, base, offset):
    return builder.load(builder.gep(base, [offset], source_etype=_I8), align=1, typ=_LANES)


def _multiply_add(builder, total, unsigned, signed):
    """Emit total + products of 64 pairs of bytes, uint8 by int8.

    Only the sum of the 16 lanes is defined.
    """
    if VNNI:
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_LANES, [_LANES] * 3), "llvm.x86.avx512.vpdpbusd.512"
        )
        return builder.call(function, [total, unsigned, signed])
    both = _pair_sums(builder, unsigned, signed)
    halves = [
        builder.shuffle_vector(both, both, ir.Constant(_LANES, list(range(first, first + 16))))
        for first in (0, 16)
    ]
    return builder.add(total, builder.add(*halves))


def _pair_sums(builder, unsigned, signed):
    """Emit 32 sums of two products each, of 64 pairs of bytes in the order of the bytes."""
    bytes_, words, pairs = (
        ir.VectorType(_I8, 64), ir.VectorType(_I16, 64), ir.VectorType(_I32, 32)
    )  # fmt: skip
    left = builder.zext(builder.bitcast(unsigned, bytes_), words)
    right = builder.sext(builder.bitcast(signed, bytes_), words)
    products = []
    for first in (0, 1):  # Even and odd places: LLVM makes one multiply-add of them.
        mask = ir.Constant(pairs, list(range(first, 64, 2)))
        sides = [
            builder.sext(builder.shuffle_vector(side, side, mask), pairs) for side in (left, right)
        ]
        products.append(builder.mul(*sides))
    return builder.add(*products)


def _sum_of(builder, totals):
    vector = builder.add(*(builder.load(total, typ=_LANES) for total in totals))
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_I32, [_LANES]), "llvm.vector.reduce.add.v16i32"
    )
    return builder.call(function, [vector])


def _totals(builder):
    zero = ir.Constant(_LANES, [0] * 16)
    return [cgutils.alloca_once_value(builder, zero) for _ in range(2)]


@intrinsic
def dot_bytes(typing_context, codes, offset, query, length):
    """Return the sum of codes[offset + i] * query[i] over i < length, a multiple of 64.

    codes: uint8. query: int8 (length,). No bounds are checked.
    """

    def generate(context, builder, signature, arguments):
        left = _byte_pointer(context, builder, signature.args[0], arguments[0], arguments[1])
        right = _byte_pointer(
            context, builder, signature.args[2], arguments[2], ir.Constant(_I64, 0)
        )
        totals = _totals(builder)

        def add(total, at):
            pair = (_load_lanes(builder, base, at) for base in (left, right))
            builder.store(_multiply_add(builder, builder.load(total, typ=_LANES), *pair), total)

        whole = builder.and_(arguments[3], ir.Constant(_I64, ~127))
        step = ir.Constant(_I64, 128)
        with cgutils.for_range_slice(builder, ir.Constant(_I64, 0), whole, step) as (index, _):
            for part, total in enumerate(totals):
                add(total, builder.add(index, ir.Constant(_I64, 64 * part)))
        with builder.if_then(builder.icmp_signed("<", whole, arguments[3])):
            add(totals[0], whole)
        return _sum_of(builder, totals)

    return types.int32(codes, types.int64, query, types.int64), generate


@intrinsic
def dot_heads(typing_context, sketches, offset, query, lines):
    """Return the sum of a sketch's heads, which begin at that byte, times the query's.

    sketches: uint8. query: int8 (128 * lines,), for each line 64 of the low, then of the high bits.
    """

    def generate(context, builder, signature, arguments):
        left = _byte_pointer(context, builder, signature.args[0], arguments[0], arguments[1])
        right = _byte_pointer(
            context, builder, signature.args[2], arguments[2], ir.Constant(_I64, 0)
        )
        totals = _totals(builder)
        low_bits, shift = ir.Constant(_LANES, [0x0F0F0F0F] * 16), ir.Constant(_LANES, [4] * 16)
        with cgutils.for_range(builder, arguments[3]) as loop:
            line = _load_lanes(builder, left, builder.mul(loop.index, ir.Constant(_I64, 64)))
            for part, total in enumerate(totals):
                heads = builder.and_(builder.lshr(line, shift) if part else line, low_bits)
                first = builder.add(
                    builder.mul(loop.index, ir.Constant(_I64, 128)), ir.Constant(_I64, 64 * part)
                )
                others = _load_lanes(builder, right, first)
                added = _multiply_add(builder, builder.load(total, typ=_LANES), heads, others)
                builder.store(added, total)
        return _sum_of(builder, totals)

    return types.int32(sketches, types.int64, query, types.int64), generate


@intrinsic
def dot_four_heads(typing_context, sketches, offsets, query, lines):
    """Return four sums as ``dot_heads`` does, of sketches at four offsets, a tuple of int64.

    They share the steps that add the lanes of a vector, which take longer than the products.
    """

    def generate(context, builder, signature, arguments):
        lefts = [
            _byte_pointer(context, builder, signature.args[0], arguments[0], offset)
            for offset in cgutils.unpack_tuple(builder, arguments[1], 4)
        ]
        right = _byte_pointer(
            context, builder, signature.args[2], arguments[2], ir.Constant(_I64, 0)
        )
        totals = [*_totals(builder), *_totals(builder)]
        low_bits, shift = ir.Constant(_LANES, [0x0F0F0F0F] * 16), ir.Constant(_LANES, [4] * 16)
        with cgutils.for_range(builder, arguments[3]) as loop:
            begin = builder.mul(loop.index, ir.Constant(_I64, 128))
            low, high = (
                _load_lanes(builder, right, builder.add(begin, ir.Constant(_I64, first)))
                for first in (0, 64)
            )
            for left, total in zip(lefts, totals, strict=True):
                line = _load_lanes(builder, left, builder.mul(loop.index, ir.Constant(_I64, 64)))
                value = builder.load(total, typ=_LANES)
                value = _multiply_add(builder, value, builder.and_(line, low_bits), low)
                heads = builder.and_(builder.lshr(line, shift), low_bits)
                builder.store(_multiply_add(builder, value, heads, high), total)
        sums = _sums_of_four(builder, [builder.load(total, typ=_LANES) for total in totals])
        return context.make_tuple(builder, signature.return_type, sums)

    four = types.UniTuple(types.int64, 4)
    return types.UniTuple(types.int32, 4)(sketches, four, query, types.int64), generate


def _sums_of_four(builder, vectors):
    """Emit the sums of the 16 lanes of each of four vectors."""

    def halved(left, right, count):
        # From groups of so many lanes of each, groups half of which are of left, half of right.
        sides: list[list[int]] = [[], []]
        for group in range(0, 16, 2 * count):
            for side, start in zip(sides, (group, group + count), strict=True):
                side += [*range(start, start + count), *range(16 + start, 16 + start + count)]
        return builder.add(*(
            builder.shuffle_vector(left, right, ir.Constant(_LANES, side)) for side in sides
        ))  # fmt: skip

    pairs = halved(*vectors[:2], 1), halved(*vectors[2:], 1)
    lanes = halved(*pairs, 2)  # One of each of the four, four times.
    for count in (8, 4):
        kind = ir.VectorType(_I32, count)
        lanes = builder.add(*(
            builder.shuffle_vector(
                lanes, lanes, ir.Constant(kind, list(range(first, first + count)))
            )
            for first in (0, count)
        ))  # fmt: skip
    return [builder.extract_element(lanes, ir.Constant(_I32, each)) for each in range(4)]


@intrinsic
def dot_block(typing_context, codes, offset, query, query_offset, groups, out):
    """Write the products of 16 rows, whose bytes begin at offset, with a query: int32 (16,).

    codes: uint8; 4 bytes of each of the 16 rows, then the next 4 of each, for so many groups, a
    multiple of 4. query: int8, 4 bytes for each group.
    """

    def generate(context, builder, signature, arguments):
        left, right, target = (
            _byte_pointer(context, builder, signature.args[at], arguments[at], begin)
            for at, begin in ((0, arguments[1]), (2, arguments[3]), (5, ir.Constant(_I64, 0)))
        )
        # Without VNNI, a lane for each pair of bytes; pairs are added at the end.
        kind, count = (_LANES, 4) if VNNI else (ir.VectorType(_I32, 32), 1)
        totals = [
            cgutils.alloca_once_value(builder, ir.Constant(kind, [0] * kind.count))
            for _ in range(count)
        ]
        for total in totals:
            builder.store(ir.Constant(kind, [0] * kind.count), total)
        step = ir.Constant(_I64, count)
        with cgutils.for_range_slice(builder, ir.Constant(_I64, 0), arguments[4], step) as (
            first,
            _,
        ):
            for part, total in enumerate(totals):
                group = builder.add(first, ir.Constant(_I64, part))
                line = _load_lanes(builder, left, builder.mul(group, ir.Constant(_I64, LINE)))
                place = builder.gep(
                    right, [builder.mul(group, ir.Constant(_I64, 4))], source_etype=_I8
                )
                four = builder.load(place, align=1, typ=_I32)
                lane = builder.insert_element(
                    ir.Constant(_LANES, ir.Undefined), four, ir.Constant(_I32, 0)
                )
                same = builder.shuffle_vector(lane, lane, ir.Constant(_LANES, [0] * 16))
                value = builder.load(total, typ=kind)
                if VNNI:
                    value = _multiply_add(builder, value, line, same)
                else:
                    value = builder.add(value, _pair_sums(builder, line, same))
                builder.store(value, total)
        sums = [builder.load(total, typ=kind) for total in totals]
        if VNNI:
            result = builder.add(builder.add(*sums[:2]), builder.add(*sums[2:]))
        else:
            even, odd = (
                builder.shuffle_vector(
                    sums[0], sums[0], ir.Constant(_LANES, list(range(first, 32, 2)))
                )
                for first in (0, 1)
            )
            result = builder.add(even, odd)
        builder.store(result, builder.bitcast(target, ir.PointerType(_LANES)), align=4)
        return context.get_dummy_value()

    return types.void(codes, types.int64, query, types.int64, types.int64, out), generate


@intrinsic
def prefetch_bytes(typing_context, array, offset, lines):
    """Prefetch so many cache lines from that byte on; never faults."""

    def generate(context, builder, signature, arguments):
        base = _byte_pointer(context, builder, signature.args[0], arguments[0], arguments[1])
        ask = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [_POINTER, _I32, _I32, _I32]),
            "llvm.prefetch.p0",
        )
        read_keep_data = [ir.Constant(_I32, value) for value in (0, 3, 1)]
        with cgutils.for_range(builder, arguments[2]) as loop:
            line = builder.mul(loop.index, ir.Constant(_I64, LINE))
            builder.call(ask, [builder.gep(base, [line], source_etype=_I8), *read_keep_data])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), generate


def _loader(llvm_type, numba_type):
    def load(typing_context, array, offset):
        def generate(context, builder, signature, arguments):
            at = _byte_pointer(context, builder, signature.args[0], arguments[0], arguments[1])
            return builder.load(at, align=1, typ=llvm_type)

        return numba_type(array, types.int64), generate

    return load


load_float = intrinsic(_loader(_F32, types.float32))
load_half = intrinsic(_loader(_I16, types.uint16))
load_word = intrinsic(_loader(_I32, types.uint32))
