"""Rows in 8 bits a component, and lower bounds of their scores that hold with certainty.

A row x is centred, y = x - mean, and coded as y = s * c + e: one scale s, integers c of -127 to
127, and what is left, e. 16 rows make a **block**, so that one instruction multiplies 4 components
of each of them with the query's:

    codes      uint8 (blocks, 16 * width)
               byte   0 ... 3          4 ... 7         ...  60 ... 63         64 ... 67
                      row 0, c0 ... c3 row 1, c0 ... c3     row 15, c0 ... c3 row 0, c4 ... c7
               each is c + 128; the places of rows past the end hold 128
    factors    float32 (blocks, 4, 16), four cache lines a block, a number a row in each:
               scale s | constant | error, at least |e| | length, at least |s * c|

With p = query - mean, a score up to float32 rounding is

    euclidean  |y|^2  + |p|^2           - 2 p . y      constant: |y|^2, rounded down
    inner      -mean . y - mean . query -   p . y      constant: -mean . y, rounded down

The query is coded, too: p = t * d + f with integers d of 15 bits. So p . y is
t s (d . c) + f . (s c) + p . e, and by Cauchy and Schwarz the last two are at most
|f| |s c| + |p| |e|. d is two bytes, high and low: a bound by the high bytes alone comes first, and
spares most rows the low ones.

**What else the bound covers.** Scores are float32 sums of at most width products, so they differ
from the true ones by no more than ``rounding`` times |x| |q| (inner) or times the true score
(euclidean), and by ``underflow``. That holds as long as no sum overflows: rows and queries longer
than ``_LENGTH_MAX`` get a bound that rules nothing out; a squared distance that overflows is
infinite, so no bound is above it. Everything else is computed in float64, where nothing overflows
or underflows; its rounding, 2**-53 times some width of terms, is covered by ``_SLACK``.

The integers are the same on every processor. The floats may differ in their last bits, and so may
the rows that a bound rules out; a score that is returned never does.
"""
# numba infers the types of compiled functions; an intrinsic is called without its first argument.
# mypy: disable-error-code="no-untyped-def, call-arg, arg-type"

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit, types

from vecdb.engine.kernels.byte_instructions import dot_block
from vecdb.engine.kernels.compiling import FLOATS, INT, inlined, kernel, read, written
from vecdb.engine.kernels.distance import EUCLIDEAN
from vecdb.engine.kernels.instructions import LANES

__all__ = [
    "BLOCK_ROWS", "QUERY_NUMBERS", "bound_by_high_bytes", "encode_rows", "numbers_of",
    "prepare_coded_query", "refine_bounds", "score_limit",
]  # fmt: skip

BLOCK_ROWS: Final = 16
QUERY_NUMBERS: Final = 7

_CODE_MAX: Final = 127
_MIDDLE: Final = 128
_QUERY_MAX: Final = _CODE_MAX * 128
_SLACK: Final = 2.0**-30
_LENGTH_MAX: Final = 2.0**63
_EPSILON: Final = 2.0**-24
_LEAST: Final = 2.0**-148

_reordered = njit(forceinline=True, nogil=True, fastmath={"reassoc", "nnan", "nsz", "contract"})
"""Decorator of inlined functions whose sums may be added in any order, so in vectors."""


@inlined
def rounding(width):
    """Return how far a score may be from the true one, relative to the sum of its terms."""
    return 1.01 * np.float64(width + 16) * _EPSILON


@inlined
def underflow(width):
    """Return by how much the smallest floats may shift a score."""
    return np.float64(width + 16) * _LEAST


@inlined
def root_above(square):
    """Return the square root of a sum, rounded up."""
    return np.sqrt(square) * (1.0 + _SLACK)


@inlined
def rounded_up(value):
    return np.nextafter(np.float32(value), np.float32(np.inf))


@inlined
def rounded_down(value):
    return np.nextafter(np.float32(value), np.float32(-np.inf))


@_reordered
def centre(vectors, row, mean, out):
    """Write row - mean; return its largest size, squared length, and product with the mean."""
    square = product = 0.0
    for i in range(mean.shape[0]):
        value = np.float64(vectors[row, i]) - np.float64(mean[i])
        out[i] = value
        square += value * value
        product += value * np.float64(mean[i])
    # Without their signs, floats are ordered as integers of the same bits are. LLVM finds the
    # maximum of integers in vectors, that of floats one by one.
    bits, most = out.view(np.int64), np.int64(0)
    for i in range(mean.shape[0]):
        most = max(most, bits[i] & np.int64(0x7FFF_FFFF_FFFF_FFFF))
    return np.uint64(most).view(np.float64), square, product


@_reordered
def to_codes(centred, scale, out):
    """Write a row's codes; return the squared lengths of what is left, and of the codes."""
    inverse = 1.0 / scale if scale > 0.0 else 0.0
    left = square = 0.0
    for i in range(centred.shape[0]):
        code = min(max(np.rint(centred[i] * inverse), -_CODE_MAX), _CODE_MAX)
        rest = centred[i] - scale * code
        left += rest * rest
        square += code * code
        out[i] = np.uint8(np.int32(code) + _MIDDLE)
    return left, square


@_reordered
def length_of(values):
    square = 0.0
    for i in range(values.shape[0]):
        square += np.float64(values[i]) * np.float64(values[i])
    return root_above(square)


@kernel(types.void(
    FLOATS, read(types.float32, 1), INT, written(types.uint32, 2), written(types.float32, 3)
))  # fmt: skip
def encode_rows(vectors, mean, metric, out_codes, out_factors):
    """Code all rows.

    Args:
        vectors: float32 (n, width).
        mean: float32 (width,); any numbers give bounds that hold.
        metric: metric code.
        out_codes: uint32 (blocks, 4 * width), written: the codes, 4 bytes in each.
        out_factors: float32 (blocks, 4, 16), written.
    """
    n, width = vectors.shape
    blocks = (n + BLOCK_ROWS - 1) // BLOCK_ROWS
    if (
        width % LANES != 0 or mean.shape[0] != width
        or out_codes.shape != (blocks, width * BLOCK_ROWS // 4)
        or out_factors.shape != (blocks, 4, BLOCK_ROWS)
    ):  # fmt: skip
        raise ValueError("encode_rows: arrays that don't belong together")
    centred, row_codes = np.empty(width, np.float64), np.empty(width, np.uint8)
    fours = row_codes.view(np.uint32)
    mean_length = length_of(mean)
    for row in range(blocks * BLOCK_ROWS):
        block, lane = row // BLOCK_ROWS, row % BLOCK_ROWS
        usable = row < n
        if usable:
            most, square, product = centre(vectors, row, mean, centred)
            length = root_above(square)
            usable = length + mean_length <= _LENGTH_MAX
        if usable:
            scale = np.float32(most / _CODE_MAX)
            left, code_square = to_codes(centred, np.float64(scale), row_codes)
            constant = square if metric == EUCLIDEAN else -product
            constant -= _SLACK * length * (length if metric == EUCLIDEAN else mean_length)
            # Two steps down: the second covers the rounding of what is computed from it.
            constant = rounded_down(rounded_down(constant))
            error = rounded_up(root_above(left) + _SLACK * length)
            code_length = rounded_up(np.float64(scale) * root_above(code_square))
        else:
            row_codes[:] = np.uint8(_MIDDLE)
            scale = constant = code_length = np.float32(0)
            error = np.float32(np.inf)
        for group in range(fours.shape[0]):
            out_codes[block, group * BLOCK_ROWS + lane] = fours[group]
        out_factors[block, 0, lane], out_factors[block, 1, lane] = scale, constant
        out_factors[block, 2, lane], out_factors[block, 3, lane] = error, code_length


@_reordered
def code_query(queries, query, centred, step, high, low, place):
    """Write a query's bytes; return their sums, the squared lengths of what is left by the high
    bytes and by both, and of the query."""
    high_sum = low_sum = np.int64(0)
    high_left = left = square = 0.0
    inverse = 1.0 / step
    for i in range(centred.shape[0]):
        code = np.int32(np.rint(centred[i] * inverse))
        upper = (code + np.int32(64)) >> np.int32(7)
        lower = code - np.int32(128) * upper
        high[place, i], low[place, i] = np.int8(upper), np.int8(lower)
        high_sum += upper
        low_sum += lower
        high_rest = centred[i] - step * np.float64(np.int32(128) * upper)
        rest = centred[i] - step * np.float64(code)
        high_left += high_rest * high_rest
        left += rest * rest
        square += np.float64(queries[query, i]) * np.float64(queries[query, i])
    return high_sum, low_sum, high_left, left, square


@inlined
def prepare_coded_query(queries, query, mean, metric, centred, high, low, numbers, place):
    """Write the query's bytes and numbers, for ``bound_by_high_bytes`` and ``refine_bounds``.

    Args:
        centred: float64 (width,), scratch memory.
        high, low: int8 (q, width). numbers: float64 (q, QUERY_NUMBERS). Row ``place`` is written.
    """
    width = mean.shape[0]
    most, square, product = centre(queries, query, mean, centred)
    step = most / _QUERY_MAX if most > 0.0 else 1.0
    high_sum, low_sum, high_left, left, query_square = code_query(
        queries, query, centred, step, high, low, place
    )
    length, query_length = root_above(square), root_above(query_square)
    high_error = root_above(high_left) + _SLACK * length
    error = root_above(left) + _SLACK * length
    factor, constant, shift = 2.0, square * (1.0 - _SLACK), 0.0
    if metric != EUCLIDEAN:
        mean_length = length_of(mean)
        factor, shift = 1.0, rounding(width) * query_length
        # mean . query = mean . p + |mean|^2, and |x| is at most |s * c| + |e| + |mean|.
        constant = -product - mean_length * mean_length
        constant -= (_SLACK + rounding(width)) * (query_length + mean_length) * mean_length
        constant -= underflow(width)
    if query_length > _LENGTH_MAX:
        shift = np.inf
    numbers[place, 0] = constant
    numbers[place, 1] = factor * step
    numbers[place, 2] = np.float64(_MIDDLE) * high_sum
    numbers[place, 3] = np.float64(_MIDDLE) * low_sum
    numbers[place, 4] = factor * length * (1.0 + _SLACK) + shift
    numbers[place, 5] = factor * high_error + shift
    numbers[place, 6] = factor * error + shift


@inlined
def numbers_of(numbers, place):
    """Return a query's numbers as a tuple, so that they stay in registers."""
    return (
        numbers[place, 0], numbers[place, 1], numbers[place, 2], numbers[place, 3],
        numbers[place, 4], numbers[place, 5], numbers[place, 6],
    )  # fmt: skip


@inlined
def score_limit(worst, metric, width):
    """Return the limit for bounds: the score of a row whose bound is greater is over ``worst``."""
    if metric != EUCLIDEAN:
        return np.float64(worst)
    return (np.float64(worst) + underflow(width)) * (1.0 + 2.0 * rounding(width))


@inlined
def bound_by_high_bytes(codes, factors, block, high, place, query_numbers, limit, products, bounds):
    """Write the bounds of a block's rows, float64 (16,); return how many rows they do not rule out.

    Whatever is not finite rules nothing out. products: int32 (16,), written for ``refine_bounds``.
    """
    width = high.shape[1]
    constant, step, high_shift, _, length, error, _ = query_numbers
    dot_block(codes, block * codes.shape[1], high, place * width, width >> 2, products)
    left = 0
    for lane in range(BLOCK_ROWS):
        product = 128.0 * step * np.float64(factors[block, 0, lane])
        product *= np.float64(products[lane]) - high_shift
        bounds[lane] = (
            np.float64(factors[block, 1, lane]) + constant - product
            - length * np.float64(factors[block, 2, lane])
            - error * np.float64(factors[block, 3, lane])
        )  # fmt: skip
        left += 0 if bounds[lane] > limit else 1
    return left


@inlined
def refine_bounds(
    codes, factors, block, low, place, query_numbers, products, low_products, bounds
):  # fmt: skip
    """Write closer bounds: those by both bytes of the query."""
    width = low.shape[1]
    constant, step, high_shift, low_shift, length, _, error = query_numbers
    dot_block(codes, block * codes.shape[1], low, place * width, width >> 2, low_products)
    for lane in range(BLOCK_ROWS):
        product = 128.0 * (np.float64(products[lane]) - high_shift)
        product += np.float64(low_products[lane]) - low_shift
        product *= step * np.float64(factors[block, 0, lane])
        bounds[lane] = (
            np.float64(factors[block, 1, lane]) + constant - product
            - length * np.float64(factors[block, 2, lane])
            - error * np.float64(factors[block, 3, lane])
        )  # fmt: skip
