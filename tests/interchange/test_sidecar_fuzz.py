"""Sidecars that are truncated, flipped or random are refused by name, or are usable.

A sidecar is as untrusted as the index itself.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import index_files
from vecdb import checks
from vecdb.engine.interchange.importing.foreign_index import ForeignIndex
from vecdb.engine.interchange.importing.names import Names
from vecdb.engine.interchange.untrusted_file import UntrustedFile
from vecdb.errors import InvalidArgumentError
from vecdb.import_files import sidecar_lines

ENTRIES: list[dict[str, Any]] = [
    {"faiss_id": 100 + 3 * i, "id": f"wört-{i}", "metadata": json.dumps({"n": i}) if i else None}
    for i in range(6)
]


@pytest.fixture(scope="module")
def index_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("index") / "x.faiss"
    index_files.write("flat-ids", path, n=len(ENTRIES))
    return path


def outcome(index_path: Path, meta: Path) -> str:
    """Return "refused", or "fine" for names that an import can store."""
    with UntrustedFile(index_path) as file:
        index: ForeignIndex = index_files.read("flat-ids", file)
        try:
            with sidecar_lines(index_path, meta) as side:
                pieces = list(Names(index, side).pieces(4))
        except InvalidArgumentError as error:
            refusal = error
        else:
            refusal = None
    if refusal is not None:
        assert refusal.reason == "BAD_META" and str(meta) in refusal.message
        return "refused"
    ids = [name for _, _, some, _ in pieces for name in some]
    assert len(set(ids)) == len(ids) == index.count
    checks.check_ids(ids, unique=True)
    for first, end, _, metadata in pieces:
        assert len(metadata) in (0, end - first)
        checks.check_raw_metadata(metadata, len(metadata))
    return "fine"


def outcomes_of_damage(index_path: Path, meta: Path) -> Counter[str]:
    """Count the outcomes of each truncation, and of each byte changed in three ways."""
    whole, outcomes = meta.read_bytes(), Counter[str]()
    assert outcome(index_path, meta) == "fine"
    for size in range(len(whole)):
        meta.write_bytes(whole[:size])
        outcomes[outcome(index_path, meta)] += 1
    for at, byte in enumerate(whole):
        meta.write_bytes(whole[:at] + bytes([byte ^ (0x01, 0xFF, 0x80)[at % 3]]) + whole[at + 1 :])
        outcomes[outcome(index_path, meta)] += 1
    return outcomes


def test_damaged_lines_are_refused_or_harmless(index_path: Path, tmp_path: Path) -> None:
    meta = tmp_path / "x.jsonl"
    meta.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in ENTRIES))
    outcomes = outcomes_of_damage(index_path, meta)
    # A file cut after a line is complete, and a changed letter of an id gives another id.
    assert outcomes["refused"] > 300 and outcomes["fine"] > 30


@pytest.mark.slow
def test_damaged_tables_are_refused_or_harmless(index_path: Path, tmp_path: Path) -> None:
    meta = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ENTRIES), meta)
    outcomes = outcomes_of_damage(index_path, meta)
    assert outcomes["refused"] > 1_000


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_LINES = st.fixed_dictionaries(
    {},
    optional={
        "faiss_id": st.sampled_from([each["faiss_id"] for each in ENTRIES]) | _VALUES,
        "id": st.text() | _VALUES,
        "metadata": st.text() | _VALUES,
    },
)


@pytest.mark.slow
@settings(max_examples=150)
@given(lines=st.lists(_LINES | st.sampled_from(ENTRIES) | _VALUES, max_size=8))
def test_random_lines_are_refused_or_harmless(
    lines: list[Any], index_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    meta = tmp_path_factory.getbasetemp() / "random.jsonl"
    meta.write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome(index_path, meta)
