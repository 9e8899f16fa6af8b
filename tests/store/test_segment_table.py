"""The entry of a segment: its JSON is what earlier versions wrote, and unknown keys survive."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from vecdb.engine.store import layout
from vecdb.engine.store.segment_table import SegmentEntry
from vecdb.errors import DataLossError

KEY = layout.row_key(7)
INTERVAL = {"first_row": 10, "end_row": 30, "seq": 4}
FILES = {"kind": "graph", "count": 20, "bytes": 5_000, "manifest_crc": 2**32 - 1}

# What format 1 has had since it was first written; the bytes must stay the same.
KNOWN: dict[str, dict[str, Any]] = {
    "reserved": {"state": "claimed", "lock": "graph", **INTERVAL},
    "given up": {"state": "retired", "lock": "seal", **INTERVAL},
    "written": {"state": "published", "lock": None, **INTERVAL, **FILES},
    "published": {"state": "published", "lock": None, **INTERVAL, **FILES, "verified": True},
    "quarantined": {"state": "lost", "lock": None, **INTERVAL, **FILES, "verified": True},
    "replaced": {"state": "retired", "lock": None, **INTERVAL, **FILES, "verified": True},
    "lost part": {"state": "published", "lock": None, **INTERVAL, **FILES, "lost_parts": ["codes"]},
}


@pytest.mark.parametrize("name", KNOWN)
def test_segment_entry_packs_to_the_bytes_it_was_read_from(name: str) -> None:
    value = layout.pack_json(KEY, KNOWN[name])
    entry = SegmentEntry.unpack(KEY, value)
    assert entry.pack(KEY) == value
    assert json.loads(value[:-4]) == KNOWN[name]


def test_segment_entry_rewritten_keeps_keys_of_newer_versions() -> None:
    newer = {**KNOWN["published"], "tier": {"disk": 2}}
    entry = SegmentEntry.from_json(newer)
    assert entry.quarantined().to_json() == {**newer, "state": "lost"}
    assert replace(entry, lost_parts=("codes",)).retired().to_json() == {
        **newer, "state": "retired", "lost_parts": ["codes"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"state": None}, {"state": 1}, {"first_row": -1}, {"end_row": 2**63}, {"seq": True},
        {"count": 1.0}, {"bytes": None}, {"kind": None}, {"manifest_crc": "1"},
        {"lost_parts": "codes"}, {"lost_parts": [1]},
    ],
)  # fmt: skip
def test_segment_entry_with_a_wrong_field_is_refused(change: dict[str, Any]) -> None:
    (name,) = change
    with pytest.raises(DataLossError, match=r"entry of segment 7 can't be read: .*" + name):
        SegmentEntry.unpack(KEY, layout.pack_json(KEY, {**KNOWN["published"], **change}))
    if change[name] is None:
        found = {key: value for key, value in KNOWN["published"].items() if key != name}
        with pytest.raises(DataLossError, match=r"entry of segment 7 can't be read: .*" + name):
            SegmentEntry.unpack(KEY, layout.pack_json(KEY, found))


def test_segment_entry_that_is_no_object_is_refused() -> None:
    with pytest.raises(DataLossError, match="expected a JSON object"):
        SegmentEntry.unpack(KEY, layout.pack_value(KEY, b"[1]"))
