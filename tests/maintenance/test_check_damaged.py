"""Checks of folders whose files were truncated, or changed bit by bit."""

from __future__ import annotations

import os
import random
import re
import struct
from pathlib import Path
from typing import Any

import pytest

import vecdb
from tests.checking import (
    DIM,
    catalog_entry,
    checked,
    fill,
    ids_of,
    kinds_of,
    vectors_of,
)
from tests.model import flush_now

SEED = 20_261
PAGE_BYTES = 4_096


def collection_named(folder: Path, name: str) -> Path:
    return folder / "collections" / str(catalog_entry(folder, name)["id"])


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A closed folder with "docs" and "other"."""
    folder = tmp_path / "data"
    fill(folder)
    with vecdb.open(folder, indexer=False) as database:
        other = database.create_collection("other", DIM)
        other.upsert(ids_of(0, 100), vectors_of(0, 100))
        flush_now(other)
    return folder


def test_truncated_store_is_reported_and_the_others_checked(two: Path) -> None:
    store = collection_named(two, "docs") / "store" / "data.mdb"
    os.truncate(store, 5 * PAGE_BYTES)
    report = vecdb.check(two, repair=True)
    (problem,) = report.problems
    assert (problem.collection, problem.kind) == ("docs", "STORE_DAMAGED")
    assert "truncated" in problem.detail and not problem.repaired
    assert [each.name for each in report.collections] == ["other"]
    assert not report.content and report.complete


def test_truncated_catalog_is_reported_and_the_stores_checked(two: Path) -> None:
    os.truncate(two / "catalog" / "data.mdb", 2 * PAGE_BYTES)
    report = vecdb.check(two)
    (problem,) = report.problems
    assert (problem.collection, problem.kind) == ("", "CATALOG_LOST")
    assert sorted(each.live_count for each in report.collections) == [100, 337]


def pages_in_use(raw: bytes) -> list[int]:
    """Return the pages of an LMDB file that its last commit refers to."""

    def numbers(layout: str, at: int) -> tuple[int, ...]:
        return struct.unpack_from(f"<{layout}", raw, at)

    # A meta page ends with: root of the main database, last page, number of the transaction.
    metas = [numbers("QQQ", each * PAGE_BYTES + 128) for each in (0, 1)]
    pages, roots = set(), [max(metas, key=lambda meta: meta[2])[0]]
    while roots:
        page = roots.pop()
        pages.add(page)
        kind, lower = numbers("HH", page * PAGE_BYTES + 10)
        for (offset,) in struct.iter_unpack("<H", raw[page * PAGE_BYTES :][16:lower]):
            node = page * PAGE_BYTES + offset
            low, high, flags, key_bytes = numbers("HHHH", node)
            if kind & 1:  # A branch page, whose nodes refer to further pages.
                roots.append(low | high << 16 | flags << 32)
            elif flags & 1:  # A large value is on overflow pages.
                pages.update(numbers("Q", node + 8 + key_bytes))
            elif flags & 2:  # A named database; it has no root if it is empty.
                (root,) = numbers("Q", node + 8 + key_bytes + 40)
                roots += [root] if root != 2**64 - 1 else []
    return sorted(pages)


@pytest.mark.slow
def test_flipped_bits_in_pages_of_a_store_never_end_the_check(two: Path) -> None:
    """Whichever page is damaged, the damage is reported, unless the bits are unused; the other
    collection is checked.
    """
    chance = random.Random(SEED)
    file = collection_named(two, "docs") / "store" / "data.mdb"
    good = file.read_bytes()
    reported = 0
    # The layout of pages differs from run to run, so no seed can guarantee that five are enough.
    for flip in range(12):
        if flip >= 5 and reported >= 2:
            break
        raw = bytearray(good)
        # Headers and the pointers after them are where most damage matters.
        page = chance.choice(pages_in_use(good))
        for _ in range(3):
            raw[page * PAGE_BYTES + chance.randrange(64)] ^= 1 << chance.randrange(8)
        file.write_bytes(raw)
        report = vecdb.check(two)
        about_docs = all(problem.collection == "docs" for problem in report.problems)
        assert about_docs, f"seed {SEED}, flip {flip}, page {page}: {report.problems}"
        assert "other" in [each.name for each in report.collections]
        reported += not report.content
    assert reported >= 2, f"seed {SEED}"


def test_hidden_entries_are_reported(two: Path) -> None:
    """A database for which LMDB has a larger count than it has entries."""
    file = collection_named(two, "docs") / "store" / "data.mdb"
    raw = file.read_bytes()
    # A named database is a record in the main one: 32 bytes, then the count of its entries.
    said, wrong = ((337).to_bytes(8, "little"), (338).to_bytes(8, "little"))
    changed, copies = re.subn(b"(ids.{32})" + re.escape(said), rb"\g<1>" + wrong, raw, flags=re.S)
    assert copies > 0
    file.write_bytes(changed)
    problems, _ = checked_only(two, "docs")
    assert kinds_of(problems) == {"STORE_DAMAGED"}
    assert problems[0].detail == "entries of ids: expected 338 from LMDB's count, found 337"


def checked_only(folder: Path, name: str) -> tuple[list[Any], list[Any]]:
    problems, found = checked(folder)
    return [p for p in problems if p.collection == name], found
