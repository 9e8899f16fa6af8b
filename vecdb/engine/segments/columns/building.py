"""Builds the fields of a segment from collected values.

Values get codes by sorting each class; then all pairs of a value and a node are sorted once by
value, which is the order, and once by node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecdb import limits
from vecdb.engine.segments.columns import numbers
from vecdb.engine.segments.columns.collecting import Collector, FieldValues, Path
from vecdb.engine.segments.columns.field import FIRST_NUMBER, Field, Holders, Texts
from vecdb.engine.segments.columns.node_sets import Array, NodeSet

__all__ = ["FIELDS_MAX", "build_fields"]

FIELDS_MAX: Final = limits.INDEX_FIELDS.maximum
"""Fields indexed in a segment: those that most rows have."""

_SPARSE: Final = 8
"""Fields that fewer than one in so many nodes have hold their values by a list of nodes."""

Ints = npt.NDArray[np.int64]


def build_fields(collector: Collector) -> tuple[dict[Path, Field], dict[Path, str]]:
    """Return the fields of a segment by path, and why others are left out."""
    size = collector.count
    by_rows = sorted(collector.fields.items(), key=lambda item: (-item[1].rows, item[0]))
    fields: dict[Path, Field] = {}
    left_out: dict[Path, str] = {}
    for path, values in by_rows:
        if values.left_out:
            left_out[path] = values.left_out
        elif len(fields) == FIELDS_MAX:
            left_out[path] = f"more than {FIELDS_MAX} fields, and others are in more rows"
        else:
            fields[path] = _build_field(values, size)
    return fields, left_out


def _build_field(values: FieldValues, size: int) -> Field:
    pairs: list[tuple[Any, Any]] = [
        (_joined(nodes), np.full(sum(map(len, nodes)), code, np.int64))
        for code, nodes in enumerate((values.nulls, values.falses, values.trues))
    ]
    whole, fraction, number_nodes, number_codes = _numbered(values)
    pairs.append((number_nodes, FIRST_NUMBER + number_codes))
    texts, text_codes = _sorted_texts(values)
    pairs.append((_joined(values.text_nodes), FIRST_NUMBER + len(whole) + text_codes))
    nodes = np.concatenate([nodes for nodes, _ in pairs]).astype(np.int64)
    codes = np.concatenate([codes for _, codes in pairs])
    code_count = FIRST_NUMBER + len(whole) + len(texts)
    by_value = np.sort(codes * max(size, 1) + nodes)
    if values.lists and len(by_value):
        by_value = by_value[np.diff(by_value, prepend=-1) > 0]
    codes, nodes = np.divmod(by_value, max(size, 1))
    starts = np.zeros(code_count + 1, np.uint32)
    np.cumsum(np.bincount(codes, minlength=code_count), out=starts[1:])
    return Field(
        size=size,
        present=_node_set(values.present, size),
        lists=_node_set(values.lists, size),
        odd=_node_set(values.odd, size),
        whole=whole,
        fraction=fraction,
        texts=texts,
        starts=starts,
        order=nodes.astype(np.int32),
        holders=_held(nodes, codes, code_count, size),
        type_counts=_type_counts(values),
    )


def _joined(parts: Sequence[Array], dtype: npt.DTypeLike = np.int32) -> Array:
    return np.concatenate([np.zeros(0, dtype), *parts])


def _numbered(values: FieldValues) -> tuple[Ints, npt.NDArray[np.float64] | None, Array, Ints]:
    """Return the distinct numbers in their order, nodes with a number, and its position."""
    nodes = _joined([each for each, _ in (*values.integers, *values.doubles)])
    whole = _joined([each for _, each in values.integers], np.int64)
    if not values.doubles:
        distinct, at = np.unique(whole, return_inverse=True)
        return distinct, None, nodes, at.astype(np.int64)
    whole_part, part = numbers.split(_joined([each for _, each in values.doubles], np.float64))
    fraction = np.concatenate([np.zeros(len(whole)), part])
    whole = np.concatenate([whole, whole_part])
    order = np.lexsort((fraction, whole))
    whole, fraction = whole[order], fraction[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (whole[1:] != whole[:-1]) | (fraction[1:] != fraction[:-1])
    at = np.empty(len(order), np.int64)
    at[order] = np.cumsum(new) - 1
    whole, fraction = whole[new], fraction[new]
    return whole, fraction if fraction.any() else None, nodes, at


def _sorted_texts(values: FieldValues) -> tuple[Texts, Ints]:
    """Return the distinct strings in their order, and the position of each value."""
    encoded = [text.encode() for text in values.texts]
    order = sorted(range(len(encoded)), key=encoded.__getitem__)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    ascending = [encoded[at] for at in order]
    lengths = np.fromiter(map(len, ascending), np.int64, len(ascending))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    raw = np.frombuffer(b"".join(ascending), np.uint8)
    return Texts(offsets, raw), rank[_joined(values.text_numbers)]


def _node_set(parts: list[Array], size: int) -> NodeSet:
    """Return the set of nodes in several lists, in which a node may be more than once."""
    nodes = _joined(parts)
    if len(parts) > 1 or len(nodes) > 1:
        nodes = np.unique(nodes)
    if len(nodes) == size:
        return NodeSet.all_of(size)
    found = NodeSet.of_nodes(size, nodes)
    return found if 32 * len(nodes) <= size else NodeSet.of_bits(size, found.bits, len(nodes))


def _held(nodes: Ints, codes: Ints, code_count: int, size: int) -> Holders:
    """Return the values by node, of pairs in the order of values."""
    by_node = np.argsort(nodes, kind="stable")
    nodes, codes = nodes[by_node], codes[by_node].astype(_code_dtype(code_count))
    counts = np.bincount(nodes, minlength=size)
    most, having = int(counts.max(initial=0)), np.flatnonzero(counts)
    if len(having) * _SPARSE > size:
        if most <= 1:
            dense = np.full(size, -1, codes.dtype)
            dense[nodes] = codes
            return Holders(dense)
        having, chosen = np.arange(size), None
    else:
        chosen = having.astype(np.int32)
        if most <= 1:
            return Holders(codes, chosen)
    offsets = np.zeros(len(having) + 1, np.uint32)
    np.cumsum(counts[having], out=offsets[1:])
    return Holders(codes, chosen, offsets)


def _code_dtype(code_count: int) -> npt.DTypeLike:
    for dtype in (np.int8, np.int16):
        if code_count <= np.iinfo(dtype).max:
            return dtype
    return np.int32


def _type_counts(values: FieldValues) -> dict[str, int]:
    """Return the number of values by type, without types that no value has; of a list it is one,
    and its elements are others."""

    def total(parts: Sequence[Array]) -> int:
        return sum(map(len, parts))

    counts = {
        "null": total(values.nulls),
        "boolean": total(values.falses) + total(values.trues),
        "integer": total([each for _, each in values.integers])
        + total(values.odd)
        - values.long_texts,
        "double": total([each for _, each in values.doubles]),
        "string": total(values.text_nodes) + values.long_texts,
        "list": total(values.lists) + values.inner_lists,
        "object": total(values.objects) + values.inner_objects,
    }
    return {name: count for name, count in counts.items() if count}
