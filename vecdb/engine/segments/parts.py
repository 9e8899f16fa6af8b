"""The table of part kinds, and which parts a segment has by its manifest.

A kind is added here and nowhere else. The order of the table is the order in which parts are
derived and written.

The manifest lists arrays ("arrays") and, if there are any, which of them make up parts that are not
needed ("optional": name of the part → its arrays). So a process that does not know a kind, as one
of an earlier version, still knows whether it can do without it: it compares its checksums, copies
its files into backups, and leaves it alone otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vecdb.engine.segments.array_files import ArrayRecord
from vecdb.engine.segments.codecs.sketch import SKETCH
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.part_kind import PartKind, PartSource
from vecdb.engine.segments.row_arrays import ROW_IDS, VECTORS
from vecdb.engine.system.files import write_array
from vecdb.types import Metric

__all__ = [
    "PART_KINDS",
    "RecordedPart",
    "derivable",
    "part_faults",
    "recorded_parts",
    "with_derived",
    "write_parts",
]

PART_KINDS: tuple[PartKind[Any], ...] = (VECTORS, ROW_IDS, GRAPH, SKETCH)


@dataclass(frozen=True)
class RecordedPart:
    """A part that a manifest lists.

    Attributes:
        kind: None if this version does not know it.
        records: of its arrays, by name.
        needed: whether the segment can't be used without it.
    """

    name: str
    kind: PartKind[Any] | None
    records: Mapping[str, ArrayRecord]
    needed: bool


def recorded_parts(manifest: Mapping[str, Any]) -> list[RecordedPart]:
    """Return the parts that a manifest lists. Unknown ones are needed unless it says otherwise."""
    arrays, optional = manifest["arrays"], manifest.get("optional", {})
    left, found = dict(arrays), []

    def add(name: str, kind: PartKind[Any] | None, names: Iterable[str], needed: bool) -> None:
        found.append(RecordedPart(name, kind, {n: left.pop(n) for n in names}, needed))

    for kind in PART_KINDS:
        if all(name in left for name in kind.arrays):
            add(kind.name, kind, kind.arrays, kind.needed)
    for name, names in optional.items():
        if all(n in left for n in names):
            add(name, None, names, False)
    for name in tuple(left):
        add(name, None, (name,), True)
    return found


def with_derived(parts: Mapping[str, Any], metric: Metric) -> dict[str, Any]:
    """Return ``parts`` with those that can be derived from them."""
    whole = dict(parts)
    for kind in PART_KINDS:
        if kind.name not in whole:
            value = kind.derive(PartSource(metric, whole))
            if value is not None:
                whole[kind.name] = value
    return whole


def derivable(names: Iterable[str]) -> bool:
    """Return whether this version can derive one of these parts again."""
    return any(kind.name in names and not kind.needed for kind in PART_KINDS)


def part_faults(parts: Mapping[str, Any], metric: Metric) -> list[str]:
    """Return what is wrong with the parts of a segment beside their checksums, for a check."""
    source = PartSource(metric, parts)
    return [
        f"part {kind.name}: {fault}"
        for kind in PART_KINDS
        if kind.name in parts
        for fault in kind.faults(parts[kind.name], source)
    ]


def write_parts(folder: Path, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Write the files of parts, fsynced; the folder is the caller's to sync.

    Returns:
        What the manifest lists of them: "arrays", the fields of each part, "optional" if any are.
    """
    arrays: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    optional: dict[str, list[str]] = {}
    for kind in PART_KINDS:
        if kind.name not in parts:
            continue
        data = kind.write(parts[kind.name])
        for name in kind.arrays:
            arrays[name] = write_array(folder / f"{name}.npy", data.arrays[name])
        fields |= data.fields
        if not kind.needed:
            optional[kind.name] = list(kind.arrays)
    return {"arrays": arrays, **fields, **({"optional": optional} if optional else {})}
