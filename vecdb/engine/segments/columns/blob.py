"""How fields are stored: the sections of all of them in one array, and a directory.

    columns.npy    uint8: sections one after the other, each at a multiple of 64

    directory, in the manifest:
      seq          the state of the collection whose metadata these are
      ids          the section of all nodes, ascending by id
      fields       for each: path, type_counts (missing in those of the first version, whose
                   "types" counted otherwise; still written, as it reads them), sets ("present",
                   "lists", "odd": "all", "none", "nodes" or "bits"), sections
      left_out     for each field that is not indexed: path, reason
      unlisted     whether there may be further fields, not indexed either

    a section is [dtype, offset, length]; those of a field are
      whole, fraction             its distinct numbers, ascending
      text_offsets, text          its distinct strings, ascending
      starts, order               nodes by value
      codes                       values by node
      code_nodes, code_offsets    of which nodes, and how many each, if not one for each node
      present, lists, odd         nodes (int32) or bitmaps (uint8)

What a part of the directory means is written beside ``Field`` and ``Holders``. Never change it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.segments.columns.field import Field, Holders, Texts
from vecdb.engine.segments.columns.node_sets import Array, NodeSet

__all__ = ["BlobWriter", "field_in", "sections_fit"]

ALIGNMENT: Final = 64
_DTYPES: Final = {"|u1", "|i1", "<i2", "<i4", "<u4", "<i8", "<f8"}
_SETS: Final = ("present", "lists", "odd")

Blob = npt.NDArray[np.uint8]
Section = list[Any]
Entry = Mapping[str, Any]


class BlobWriter:
    """Collects sections. Not thread-safe."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._length = 0

    def section(self, array: Array) -> Section:
        """Add an array of one dimension; return its section."""
        raw = np.ascontiguousarray(array).tobytes()
        at = self._length
        padding = -len(raw) % ALIGNMENT
        self._parts += [raw, bytes(padding)]
        self._length += len(raw) + padding
        return [array.dtype.newbyteorder("<").str, at, len(array)]

    def field(self, path: tuple[str, ...], field: Field) -> Entry:
        """Add the sections of a field; return its entry in the directory."""
        arrays: dict[str, Array | None] = {
            "whole": field.whole,
            "fraction": field.fraction,
            "text_offsets": field.texts.offsets,
            "text": field.texts.raw,
            "starts": field.starts,
            "order": field.order,
            "codes": field.holders.codes,
            "code_nodes": field.holders.nodes,
            "code_offsets": field.holders.offsets,
        }
        sets = {}
        for name in _SETS:
            nodes: NodeSet = getattr(field, name)
            if nodes.count in (0, nodes.size):
                sets[name] = "none" if nodes.count == 0 else "all"
            elif nodes.is_list:
                sets[name], arrays[name] = "nodes", nodes.nodes
            else:
                sets[name], arrays[name] = "bits", nodes.bits
        sections = {n: self.section(a) for n, a in arrays.items() if a is not None}
        return {
            "path": list(path),
            "type_counts": field.type_counts,
            "types": field.type_counts,
            "sets": sets,
            "sections": sections,
        }

    def blob(self) -> Blob:
        """Return all sections as they are stored."""
        return np.frombuffer(b"".join(self._parts), np.uint8)


def section_of(blob: Blob, section: Section) -> Array:
    """Return the array of a section."""
    dtype, at, length = np.dtype(section[0]), section[1], section[2]
    found: Array = blob[at : at + length * dtype.itemsize].view(dtype)
    return found


def sections_fit(sections: Mapping[str, Section], size: int) -> bool:
    """Return whether sections lie within a blob of ``size`` bytes."""
    return all(
        dtype in _DTYPES
        and at % ALIGNMENT == 0
        and at >= 0
        and length >= 0
        and at + length * np.dtype(dtype).itemsize <= size
        for dtype, at, length in sections.values()
    )


def field_in(blob: Blob, entry: Entry, size: int) -> Field:
    """Return the field of an entry of the directory. size: nodes of the segment."""
    arrays = {name: section_of(blob, section) for name, section in entry["sections"].items()}
    return Field(
        size=size,
        **{name: _set_in(arrays, name, entry["sets"][name], size) for name in _SETS},
        whole=arrays["whole"],
        fraction=arrays.get("fraction"),
        texts=Texts(arrays["text_offsets"], arrays["text"]),
        starts=arrays["starts"],
        order=arrays["order"],
        holders=Holders(arrays["codes"], arrays.get("code_nodes"), arrays.get("code_offsets")),
        type_counts=entry.get("type_counts"),
    )


def _set_in(arrays: Mapping[str, Array], name: str, form: str, size: int) -> NodeSet:
    if form == "all":
        return NodeSet.all_of(size)
    if form == "none":
        return NodeSet.none_of(size)
    if form == "nodes":
        return NodeSet.of_nodes(size, arrays[name])
    return NodeSet.of_bits(size, arrays[name])
