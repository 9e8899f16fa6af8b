"""Checks the databases of a store against each other, one function per rule, based on ``Facts``.

    ids            each refers to a live row whose record has this id; no row has two ids
    live rows      rows with a record and without a tombstone: each has an id and a vector
    deleted rows   record and vector may be purged, the record first. The tombstone stays until the
                   vector is purged: readers would otherwise take the row for a live one
    log            no gaps up to the last seq; old entries may be trimmed. Rows of an entry follow
                   those of the entry before. Its tombstones are in ``dead``, unless the row is no
                   longer in blocks and segments
    segments       live segments partition [0, sealed_to); a reservation names its lock
    requests       each id has an entry by age and vice versa
    numbers        no seq is later than the last one; no row or segment is past next_row or
                   next_segment

If a database can't be read to its end, rules that need all of it are skipped.
"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from vecdb.checking import WARNING
from vecdb.engine.maintenance.checking.findings import Examples, Findings, shown_id
from vecdb.engine.maintenance.checking.walk import (
    BAD_VALUE,
    Facts,
    Rows,
    Walk,
    named_rows,
)
from vecdb.engine.segments.lifecycle import FLUSH_LOCK, GRAPH_LOCK
from vecdb.engine.segments.part_check import is_among
from vecdb.engine.store import layout
from vecdb.engine.store.segment_table import STATES, SegmentEntry, in_place

__all__ = [
    "check_counters",
    "check_entries",
    "check_ids",
    "check_leases",
    "check_log",
    "check_requests",
]


def check_ids(walk: Walk, facts: Facts, findings: Findings) -> None:
    """Check ids against records and tombstones."""
    if facts.incomplete & {"ids", "records", "dead"}:
        return
    order = np.argsort(facts.id_rows, kind="stable")
    rows, hashes = facts.id_rows[order], facts.id_hashes[order]
    twice = np.unique(rows[1:][rows[1:] == rows[:-1]])
    recorded = is_among(rows, facts.record_rows)
    damaged = is_among(rows, facts.bad_record_rows)
    deleted = is_among(rows, facts.deleted_rows)
    same = np.zeros(len(rows), bool)
    at = np.searchsorted(facts.record_rows, rows[recorded])
    same[recorded] = facts.record_hashes[at] == hashes[recorded]
    many = findings.many

    def report(what: str, chosen: npt.NDArray[np.bool_]) -> None:
        many("IDS", what, named_rows(walk, rows[chosen]), count=int(np.count_nonzero(chosen)))

    many("IDS", "rows with more than one id", twice)
    report("ids of deleted rows", deleted)
    # Damaged records were reported already; records of deleted rows may have been purged.
    missing = ~recorded & ~damaged & ~deleted
    report("ids of rows without a record", missing)
    renamed = recorded & ~damaged & ~same & ~deleted
    report("ids of rows whose record has a different id", renamed)
    live = facts.live_rows
    unnamed = live[~is_among(live, rows)]
    known = is_among(unnamed, facts.record_rows)
    at = np.searchsorted(facts.record_rows, unnamed[known])
    known[known] = ~is_among(facts.record_hashes[at], facts.bad_id_hashes)
    many("IDS", "live rows without an id", unnamed[known])


def check_counters(facts: Facts, findings: Findings) -> None:
    """Check counters against the entries that they count, and that no seq is too late."""
    if facts.state is None or facts.counters is None:
        for name in ("state", "counters"):
            if getattr(facts, name) is None:
                findings.add("META", f"the store has no readable {name}")
        return
    counters = facts.counters
    if facts.purging is not None and facts.purging > facts.state.seq:
        what = f"purging goes up to seq {facts.purging}, the last one is {facts.state.seq}"
        findings.add("META", what)
    if "ids" not in facts.incomplete and facts.id_count != counters.live_count:
        findings.add(
            "COUNTERS",
            f"live_count is {counters.live_count:,}, expected {facts.id_count:,} as there are ids",
            WARNING,
        )
    if facts.metadata_versions > counters.metadata_count:
        findings.add(
            "COUNTERS",
            f"metadata_count is {counters.metadata_count:,}, expected at least "
            f"{facts.metadata_versions:,} as there are records with metadata",
            WARNING,
        )
    for what, rows in (
        ("ids", np.sort(facts.id_rows)),
        ("records", facts.record_rows),
        ("tombstones", facts.deleted_rows),
    ):
        past = rows[np.searchsorted(rows, counters.next_row) :]
        what = f"{what} of rows at or after next_row {counters.next_row:,}"
        findings.many("COUNTERS", what, past)
    numbers = [*facts.segments, *facts.bad_segments]
    if numbers and max(numbers) >= counters.next_segment:
        findings.add(
            "COUNTERS",
            f"next_segment is {counters.next_segment}, but there is a segment {max(numbers)}",
            WARNING,
        )


def check_entries(facts: Facts, findings: Findings) -> None:
    """Check entries of segments against each other and the counters."""
    for number, entry in facts.segments.items():
        for fault in _entry_faults(entry, facts):
            findings.add("SEGMENT_ENTRIES", f"segment {number}: {fault}", WARNING, segment=number)
    if facts.bad_segments or facts.counters is None or "segments" in facts.incomplete:
        return
    covered_to = 0
    for number, entry in in_place(facts.segments):
        if entry.first_row != covered_to:
            findings.add(
                "SEGMENT_ENTRIES",
                f"segment {number} begins at row {entry.first_row}, expected {covered_to}, "
                "where the segment before it ends",
                WARNING,
            )
            return
        covered_to = entry.end_row
    if covered_to != facts.counters.sealed_to:
        findings.add(
            "SEGMENT_ENTRIES",
            f"the live segments end at row {covered_to}, but sealed_to is "
            f"{facts.counters.sealed_to}",
            WARNING,
        )


def _entry_faults(entry: SegmentEntry, facts: Facts) -> list[str]:
    faults = []
    if entry.state not in STATES:
        faults.append(f"its state is {entry.state!r}, expected one of {', '.join(STATES)}")
    if entry.is_reserved and entry.lock not in (FLUSH_LOCK, GRAPH_LOCK):
        faults.append(
            f"it is reserved under the lock {entry.lock!r}, expected {FLUSH_LOCK!r} or "
            f"{GRAPH_LOCK!r}"
        )
    next_row = 2**63 if facts.counters is None else facts.counters.next_row
    if not 0 <= entry.first_row <= entry.end_row <= next_row:
        faults.append(
            f"it has rows {entry.first_row} to {entry.end_row}, but next_row is {next_row}"
        )
    if facts.state is not None and entry.seq > facts.state.seq:
        faults.append(f"it has seq {entry.seq}, but the last seq is {facts.state.seq}")
    return faults


def check_log(walk: Walk, facts: Facts, block_rows: Rows, findings: Findings) -> None:
    """Check the log against rows and tombstones.

    Args:
        block_rows: rows that have a vector, ascending. Their tombstones must still exist. (So must
            those of rows in segments, which the checks of parts have compared.)
    """
    bad, gaps = Examples(), Examples()
    last, next_row, first, whole = -1, -1, -1, True
    parts: list[tuple[Rows, int]] = []

    def on_bad(key: bytes) -> None:
        nonlocal last, next_row, whole
        last, next_row, whole = int.from_bytes(key[:8], "big"), -1, False

    for key, payload in walk.values("log", _shown_seq, on_bad):
        seq = int.from_bytes(key[:8], "big")
        if last >= 0 and seq != last + 1:
            gaps.add(f"seq {seq} follows seq {last}")
        first = seq if first < 0 else first
        last = seq
        try:
            entry = layout.parse_log(payload)
        except BAD_VALUE:
            bad.add(_shown_seq(key))
            on_bad(key)
            continue
        if next_row >= 0 and entry.first_row != next_row:
            gaps.add(f"seq {seq} begins at row {entry.first_row}, expected {next_row}")
        next_row = entry.first_row + entry.added
        if len(entry.deleted):
            parts.append((entry.deleted.astype(np.int64), seq))
    bad.report(findings, "VALUE", "log entries are invalid")
    gaps.report(findings, "LOG", "gaps in the log")
    if last < 0 or facts.state is None or facts.counters is None or "log" in walk.incomplete:
        return
    if last != facts.state.seq:
        findings.add("LOG", f"the log ends at seq {last}, but the last seq is {facts.state.seq}")
    elif next_row >= 0 and next_row != facts.counters.next_row:
        findings.add(
            "LOG", f"the log ends at row {next_row}, but next_row is {facts.counters.next_row}"
        )
    if "dead" not in facts.incomplete and whole and not gaps.count:
        _check_tombstones(parts, first, facts, block_rows, findings)


def _check_tombstones(
    parts: list[tuple[Rows, int]], first: int, facts: Facts, block_rows: Rows, findings: Findings
) -> None:
    """Check tombstones of the log, which begins at seq ``first``, against those in ``dead``."""
    rows = np.concatenate([np.zeros(0, np.int64), *(deleted for deleted, _ in parts)])
    seqs = np.repeat(
        np.array([seq for _, seq in parts], np.int64), [len(deleted) for deleted, _ in parts]
    )
    order = np.argsort(rows, kind="stable")
    rows, seqs = rows[order], seqs[order]
    deleted = is_among(rows, facts.deleted_rows)
    # A tombstone must outlive the row's record and vector.
    kept = is_among(rows, facts.record_rows) | is_among(rows, block_rows)
    what = "rows that the log deletes have no tombstone"
    findings.many("LOG", what, rows[kept & ~deleted])
    found = facts.deleted_seqs[np.searchsorted(facts.deleted_rows, rows[deleted])]
    differ = (found != seqs[deleted]) & (found >= 0)
    what = "tombstones have a different seq than in the log"
    findings.many("LOG", what, rows[deleted][differ])
    recent = facts.deleted_rows[facts.deleted_seqs >= first]
    findings.many("LOG", "tombstones are not in the log", recent[~is_among(recent, rows)])


def check_leases(walk: Walk, facts: Facts, findings: Findings) -> None:
    """Check that no lease has a later seq or row than the state."""
    if facts.state is None or facts.counters is None:
        return
    bad, ahead = Examples(), Examples()
    for key, payload in walk.values("pins", bytes.hex):
        try:
            lease = layout.parse_lease(key, payload)
        except BAD_VALUE:
            bad.add(key.hex())
            continue
        if lease.seq > facts.state.seq or lease.next_row > facts.counters.next_row:
            ahead.add(f"{key.hex()}: seq {lease.seq}, next_row {lease.next_row}")
    bad.report(findings, "VALUE", "leases are invalid")
    ahead.report(findings, "PINS", f"leases are ahead of seq {facts.state.seq}")


def check_requests(walk: Walk, facts: Facts, findings: Findings) -> None:
    """Check that no request has a later seq than the state, and each has its entry by age."""
    if facts.state is None:
        return
    bad, ahead = Examples(), Examples()
    by_id, by_age = (array("q"), array("q")), (array("q"), array("q"))
    whole = True

    def on_bad(key: bytes) -> None:
        nonlocal whole
        whole = False

    for key, payload in walk.values("requests", _shown_request, on_bad):
        is_age = key.startswith(layout.REQUEST_AGES)
        try:
            seqs, hashes = by_age if is_age else by_id
            seq = _seq_of_age(key) if is_age else layout.parse_request(payload).seq
            seqs.append(seq)
            hashes.append(hash(payload if is_age else key))
        except BAD_VALUE:
            bad.add(_shown_request(key))
            on_bad(key)
            continue
        if seq > facts.state.seq:
            ahead.add(f"{_shown_request(key)}: seq {seq}")
    bad.report(findings, "VALUE", "requests are invalid")
    ahead.report(findings, "REQUESTS", f"requests are ahead of seq {facts.state.seq}")
    # If one half of a pair is unreadable, the other half would be reported too.
    if whole and "requests" not in walk.incomplete:
        ids, ages = _pairs(by_id), _pairs(by_age)
        findings.many("REQUESTS", "request ids without an entry by age", _others(ids, ages))
        findings.many("REQUESTS", "entries by age without a request", _others(ages, ids))


def _seq_of_age(key: bytes) -> int:
    """Return the seq of an entry by age.

    Raises:
        ValueError, struct.error: it is not a key of such an entry.
    """
    seq = int.from_bytes(key[len(layout.REQUEST_AGES) :], "big")
    if key != layout.request_age_key(seq):
        raise ValueError(f"expected 8 bytes of a seq, got {len(key) - len(layout.REQUEST_AGES)}")
    return seq


def _pairs(columns: tuple[array[int], array[int]]) -> npt.NDArray[np.void]:
    """Return seqs and hashes of ids as one array of records."""
    dtype = [("seq", np.int64), ("id", np.int64)]
    return np.rec.fromarrays([np.array(c, np.int64) for c in columns], dtype=dtype)


def _others(pairs: npt.NDArray[np.void], known: npt.NDArray[np.void]) -> list[str]:
    """Return the pairs that are not among the known ones, as text with their seqs."""
    return [f"seq {seq}" for seq in np.setdiff1d(pairs, known)["seq"].tolist()]


def _shown_request(key: bytes) -> str:
    if key.startswith(layout.REQUEST_AGES):
        return f"entry by age of seq {int.from_bytes(key[1:9], 'big')}"
    return shown_id(key)


def _shown_seq(key: bytes) -> str:
    return f"seq {int.from_bytes(key[:8], 'big')}"
