"""The table of part kinds, and which parts a segment has by its manifest.

A kind is added here and nowhere else. The order of the table is the order in which parts are
derived and written.

The manifest lists arrays ("arrays") and, if there are any, which of them make up parts that are not
needed ("optional": name of the part → its arrays). So a process that does not know a kind, as one
of an earlier version, still knows whether it can do without it: it compares its checksums, copies
its files into backups, and leaves it alone otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vecdb.engine.segments.array_files import ArrayRecord
from vecdb.engine.segments.codecs.byte_codes import BYTE_CODES
from vecdb.engine.segments.codecs.sketch_part import SKETCH
from vecdb.engine.segments.columns.column_part import COLUMNS
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.part_check import PartCheck
from vecdb.engine.segments.part_kind import (
    CheckedSegment,
    LeftOut,
    MetadataReader,
    PartKind,
    Parts,
    PartSource,
)
from vecdb.engine.segments.recall_part import RECALL
from vecdb.engine.segments.row_arrays import ROW_IDS, VECTORS
from vecdb.engine.system.files import link_or_copy, write_array
from vecdb.types import CollectionConfig

__all__ = [
    "PART_KINDS",
    "RecordedPart",
    "codes_of",
    "derivable",
    "given_parts",
    "missing_parts",
    "part_checks",
    "recorded_parts",
    "why_without_codes",
    "with_derived",
    "write_parts",
]

PART_KINDS: tuple[PartKind[Any], ...] = (
    VECTORS,
    ROW_IDS,
    GRAPH,
    SKETCH,
    RECALL,
    BYTE_CODES,
    COLUMNS,
)

NO_CODES: Final = 'written with the option codes "none"'
"""Why codes were left out, if it was not for the rows."""


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


def given_parts(parts: Parts) -> Parts:
    """Return the parts that are not derived from others."""
    return parts.only([kind.name for kind in PART_KINDS if not kind.derived_from])


def with_derived(
    given: Parts,
    config: CollectionConfig,
    *,
    codes: bool,
    metadata: MetadataReader | None = None,
    kept: Collection[str] = (),
) -> tuple[Parts, dict[str, str]]:
    """Return the parts of a segment for which these are given, and why others are left out.

    Args:
        codes: whether it gets parts that only code rows.
        metadata: reads the metadata of its rows; None: no part is derived from them.
        kept: names of derived parts that are given and taken as they are.
    """
    whole, left_out = given_parts(given), {}
    for kind in PART_KINDS:
        if kind.name in kept and given.has(kind):
            whole.put(kind, given[kind])
            continue
        source = PartSource(config, whole, metadata)
        if not kind.applies_to(source) or (kind.from_metadata and metadata is None):
            continue
        value = kind.derive(source) if codes or not kind.codes else LeftOut(NO_CODES)
        if isinstance(value, LeftOut):
            left_out[kind.name] = value.reason
        else:
            whole.put(kind, value)
    return whole, left_out


def derivable(names: Iterable[str], *, codes: bool) -> bool:
    """Return whether this version can, and with ``codes`` False may, derive one of these parts."""
    return any(kind.name in names for kind in _derived_kinds(codes))


def codes_of(parts: Parts) -> str:
    """Return a description of the parts that code rows, "" if there are none."""
    found = ((kind, parts.get(kind)) for kind in PART_KINDS if kind.codes)
    return "; ".join(kind.described(value) for kind, value in found if value is not None)


def why_without_codes(
    parts: Parts, left_out: Mapping[str, str], gone: Collection[str], config: CollectionConfig
) -> str:
    """Return why a segment lacks parts that code rows; "" if it lacks none, or is flat and small.

    Args:
        parts, left_out: what it has, and what its manifest says about others.
        gone: the parts that are lost or damaged.
    """
    source, kinds = PartSource(config, parts), [kind for kind in PART_KINDS if kind.codes]
    reasons = {}
    for kind in kinds:
        if parts.has(kind) or not all(map(parts.has, kind.derived_from)):
            continue
        if kind.name in left_out:
            reasons[kind.name] = left_out[kind.name]
        elif kind.name in gone:
            reasons[kind.name] = "damaged; the indexer makes them again"
        elif kind.applies_to(source):
            reasons[kind.name] = "written by an earlier version; optimize makes them"
    if any(parts.has(kind) for kind in kinds):
        return "; ".join(f"no {name}: {reason}" for name, reason in reasons.items())
    if not reasons and parts.has(GRAPH):
        return "too small to need any"
    return "; ".join(dict.fromkeys(reasons.values()))


def missing_parts(
    parts: Parts, left_out: Mapping[str, str], config: CollectionConfig, *, codes: bool
) -> list[str]:
    """Return which parts a segment would get if it was written again, and was not tried for: an
    earlier version wrote it, or one with ``codes`` False.

    Args:
        parts, left_out: what it has, and what its manifest says about others.
    """
    source = PartSource(config, parts)
    return [
        kind.name
        for kind in _derived_kinds(codes)
        if not parts.has(kind)
        and left_out.get(kind.name, NO_CODES) == NO_CODES
        and kind.applies_to(source)
    ]


def _derived_kinds(codes: bool) -> list[PartKind[Any]]:
    return [kind for kind in PART_KINDS if kind.derived_from and (codes or not kind.codes)]


def part_checks(segment: CheckedSegment) -> dict[str, PartCheck]:
    """Return the deep check of each part of a segment, by the name of its kind."""
    parts = segment.parts
    return {kind.name: kind.check(parts[kind], segment) for kind in PART_KINDS if parts.has(kind)}


def write_parts(
    folder: Path,
    parts: Parts,
    left_out: Mapping[str, str],
    linked: Mapping[str, tuple[Path, ArrayRecord]],
) -> dict[str, Any]:
    """Write the files of parts, fsynced; the folder is the caller's to sync.

    Args:
        left_out: why parts were left out, by name.
        linked: files that have the arrays of these names already, and what is recorded of them.

    Returns:
        What the manifest lists of them: "arrays", the fields of each part, and, if there are any,
        "optional" and "left_out".
    """
    arrays: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    optional: dict[str, list[str]] = {}
    for kind in PART_KINDS:
        if not parts.has(kind):
            continue
        data = kind.write(parts[kind])
        for name in kind.arrays:
            path = folder / f"{name}.npy"
            if name in linked:
                source, arrays[name] = linked[name]
                link_or_copy(source, path)
            else:
                arrays[name] = write_array(path, data.arrays[name])
        fields |= data.fields
        if not kind.needed:
            optional[kind.name] = list(kind.arrays)
    notes = {"optional": optional, "left_out": dict(left_out)}
    return {"arrays": arrays, **fields, **{name: note for name, note in notes.items() if note}}
