"""What the databases of a store must say of each other; one function a rule, all over ``Facts``.

    ids          each names a row with a record of that id that has not died; no row twice
    live rows    those with a record and without a death: each is named, each has a vector
    dead rows    record and vector may have gone, the record first: then its death is still there,
                 or readers would take the vector for a live row's
    log          without gaps up to the last seq, unless trimmed at its old end; each entry's rows
                 follow those of the one before; its deaths are those in ``dead``, until a row has
                 left blocks and segments: then its death may have gone too
    segments     those in place partition [0, sealed_to); a claim names its lock
    requests     each id and its entry by age name each other
    numbers      nothing is of a later seq than the last one, nor past next_row or next_segment

If a database can't be read to its end, what would need all of it is left out.
"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from vecdb.checking import WARNING
from vecdb.engine.maintenance.checking.findings import Few, Findings, shown_id
from vecdb.engine.maintenance.checking.walk import (
    BAD_VALUE,
    Facts,
    Rows,
    Walk,
    is_among,
    named_rows,
)
from vecdb.engine.segments.lifecycle import FLUSH_LOCK, GRAPH_LOCK
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
    """Ids against records and deaths."""
    if facts.incomplete & {"ids", "records", "dead"}:
        return
    order = np.argsort(facts.id_rows, kind="stable")
    rows, hashes = facts.id_rows[order], facts.id_hashes[order]
    twice = np.unique(rows[1:][rows[1:] == rows[:-1]])
    recorded = is_among(rows, facts.record_rows)
    damaged = is_among(rows, facts.bad_record_rows)
    dead = is_among(rows, facts.deleted_rows)
    same = np.zeros(len(rows), bool)
    at = np.searchsorted(facts.record_rows, rows[recorded])
    same[recorded] = facts.record_hashes[at] == hashes[recorded]
    many = findings.many

    def tell(what: str, chosen: npt.NDArray[np.bool_]) -> None:
        many("IDS", what, named_rows(walk, rows[chosen]), count=int(np.count_nonzero(chosen)))

    many("IDS", "rows that more than one id names", twice)
    tell("ids of rows that have died", dead)
    # A damaged record was told already, and it has no id to compare; a dead row's may be gone.
    missing = ~recorded & ~damaged & ~dead
    tell("ids of rows without a record", missing)
    renamed = recorded & ~damaged & ~same & ~dead
    tell("ids of rows whose record has another id", renamed)
    live = facts.live_rows
    unnamed = live[~is_among(live, rows)]
    known = is_among(unnamed, facts.record_rows)
    at = np.searchsorted(facts.record_rows, unnamed[known])
    known[known] = ~is_among(facts.record_hashes[at], facts.bad_id_hashes)
    many("IDS", "live rows that no id names", unnamed[known])


def check_counters(facts: Facts, findings: Findings) -> None:
    """Counters against what there is to count; all of it is of a seq that has been."""
    if facts.state is None or facts.counters is None:
        for name in ("state", "counters"):
            if getattr(facts, name) is None:
                findings.add("META", f"the store has no {name} that can be read")
        return
    counters = facts.counters
    if facts.purging is not None and facts.purging > facts.state.seq:
        what = f"purging goes up to seq {facts.purging}, the last one is {facts.state.seq}"
        findings.add("META", what)
    if "ids" not in facts.incomplete and facts.id_count != counters.live_count:
        findings.add(
            "COUNTERS", f"{facts.id_count:,} ids, live_count is {counters.live_count:,}", WARNING
        )
    if facts.metadata_versions > counters.metadata_count:
        findings.add(
            "COUNTERS",
            f"{facts.metadata_versions:,} records with metadata, metadata_count is "
            f"{counters.metadata_count:,}",
            WARNING,
        )
    for what, rows in (
        ("ids name", np.sort(facts.id_rows)),
        ("records are of", facts.record_rows),
        ("deaths are of", facts.deleted_rows),
    ):
        past = rows[np.searchsorted(rows, counters.next_row) :]
        findings.many("COUNTERS", f"{what} rows past next_row, {counters.next_row:,}", past)
    numbers = [*facts.segments, *facts.bad_segments]
    if numbers and max(numbers) >= counters.next_segment:
        findings.add(
            "COUNTERS",
            f"there is a segment {max(numbers)}, next_segment is {counters.next_segment}",
            WARNING,
        )


def check_entries(facts: Facts, findings: Findings) -> None:
    """Entries of segments against each other and the counters."""
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
                f"segment {number} begins at row {entry.first_row}, the ones before it end at "
                f"{covered_to}",
                WARNING,
            )
            return
        covered_to = entry.end_row
    if covered_to != facts.counters.sealed_to:
        findings.add(
            "SEGMENT_ENTRIES",
            f"the segments in place end at row {covered_to}, sealed_to is "
            f"{facts.counters.sealed_to}",
            WARNING,
        )


def _entry_faults(entry: SegmentEntry, facts: Facts) -> list[str]:
    faults = []
    if entry.state not in STATES:
        faults.append(f"its state is {entry.state!r}")
    if entry.is_reserved and entry.lock not in (FLUSH_LOCK, GRAPH_LOCK):
        faults.append(f"it is claimed under the lock {entry.lock!r}")
    next_row = 2**63 if facts.counters is None else facts.counters.next_row
    if not 0 <= entry.first_row <= entry.end_row <= next_row:
        faults.append(f"it stands for the rows {entry.first_row} to {entry.end_row} of {next_row}")
    if facts.state is not None and entry.seq > facts.state.seq:
        faults.append(f"it is of seq {entry.seq}, the last one is {facts.state.seq}")
    return faults


def check_log(walk: Walk, facts: Facts, block_rows: Rows, findings: Findings) -> None:
    """The log against rows and deaths.

    block_rows: those that have a vector, ascending: so long their deaths stay. (That of a row in a
    segment stays too, but whether it is known there was compared already.)
    """
    bad, gaps = Few(), Few()
    last, next_row, first, whole = -1, -1, -1, True
    parts: list[tuple[Rows, int]] = []

    def on_bad(key: bytes) -> None:
        nonlocal last, next_row, whole
        last, next_row, whole = int.from_bytes(key[:8], "big"), -1, False

    for key, payload in walk.values("log", _shown_seq, on_bad):
        seq = int.from_bytes(key[:8], "big")
        if last >= 0 and seq != last + 1:
            gaps.add(f"after {last} comes {seq}")
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
        if len(entry.died):
            parts.append((entry.died.astype(np.int64), seq))
    bad.tell(findings, "VALUE", "log entries can't be read")
    gaps.tell(findings, "LOG", "gaps in the log")
    if last < 0 or facts.state is None or facts.counters is None or "log" in walk.incomplete:
        return
    if last != facts.state.seq:
        findings.add("LOG", f"the log ends at seq {last}, the last one is {facts.state.seq}")
    elif next_row >= 0 and next_row != facts.counters.next_row:
        findings.add(
            "LOG", f"the log ends at row {next_row}, next_row is {facts.counters.next_row}"
        )
    if "dead" not in facts.incomplete and whole and not gaps.count:
        _check_tombstones(parts, first, facts, block_rows, findings)


def _check_tombstones(
    parts: list[tuple[Rows, int]], first: int, facts: Facts, block_rows: Rows, findings: Findings
) -> None:
    """Deaths of the log, which begins at seq ``first``, against those in ``dead``."""
    rows = np.concatenate([np.zeros(0, np.int64), *(died for died, _ in parts)])
    seqs = np.repeat(
        np.array([seq for _, seq in parts], np.int64), [len(died) for died, _ in parts]
    )
    order = np.argsort(rows, kind="stable")
    rows, seqs = rows[order], seqs[order]
    buried = is_among(rows, facts.deleted_rows)
    # A record is kept no longer than its death, a vector neither.
    kept = is_among(rows, facts.record_rows) | is_among(rows, block_rows)
    findings.many("LOG", "rows that died by the log and have no death", rows[kept & ~buried])
    said = facts.deleted_seqs[np.searchsorted(facts.deleted_rows, rows[buried])]
    differ = (said != seqs[buried]) & (said >= 0)
    findings.many("LOG", "rows that died at another seq by the log", rows[buried][differ])
    recent = facts.deleted_rows[facts.deleted_seqs >= first]
    findings.many("LOG", "deaths that the log does not know", recent[~is_among(recent, rows)])


def check_leases(walk: Walk, facts: Facts, findings: Findings) -> None:
    """Pins are on states that have been."""
    if facts.state is None or facts.counters is None:
        return
    bad, ahead = Few(), Few()
    for key, payload in walk.values("pins", bytes.hex):
        try:
            lease = layout.parse_lease(key, payload)
        except BAD_VALUE:
            bad.add(key.hex())
            continue
        if lease.seq > facts.state.seq or lease.next_row > facts.counters.next_row:
            ahead.add(f"{key.hex()}: seq {lease.seq}, next_row {lease.next_row}")
    bad.tell(findings, "VALUE", "pins can't be read")
    ahead.tell(findings, "PINS", f"pins are ahead of seq {facts.state.seq}")


def check_requests(walk: Walk, facts: Facts, findings: Findings) -> None:
    """Requests are of a seq that has been, and each has its entry by age."""
    if facts.state is None:
        return
    bad, ahead = Few(), Few()
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
    bad.tell(findings, "VALUE", "requests can't be read")
    ahead.tell(findings, "REQUESTS", f"requests are ahead of seq {facts.state.seq}")
    # Where one half can't be read, the other one would be told as well.
    if whole and "requests" not in walk.incomplete:
        ids, ages = _pairs(by_id), _pairs(by_age)
        findings.many("REQUESTS", "request ids that are not found by their age", _others(ids, ages))
        findings.many("REQUESTS", "entries by age that lead to no request", _others(ages, ids))


def _seq_of_age(key: bytes) -> int:
    """Raises ValueError, struct.error: it is no key of an entry by age."""
    seq = int.from_bytes(key[len(layout.REQUEST_AGES) :], "big")
    if key != layout.request_age_key(seq):
        raise ValueError(f"expected 8 bytes of a seq, got {len(key) - len(layout.REQUEST_AGES)}")
    return seq


def _pairs(columns: tuple[array[int], array[int]]) -> npt.NDArray[np.void]:
    """Seqs and hashes of ids, as one array of records."""
    dtype = [("seq", np.int64), ("id", np.int64)]
    return np.rec.fromarrays([np.array(c, np.int64) for c in columns], dtype=dtype)


def _others(pairs: npt.NDArray[np.void], known: npt.NDArray[np.void]) -> list[str]:
    """The pairs that are not among the known ones, by their seqs."""
    return [f"seq {seq}" for seq in np.setdiff1d(pairs, known)["seq"].tolist()]


def _shown_request(key: bytes) -> str:
    if key.startswith(layout.REQUEST_AGES):
        return f"the one of seq {int.from_bytes(key[1:9], 'big')} by age"
    return shown_id(key)


def _shown_seq(key: bytes) -> str:
    return f"seq {int.from_bytes(key[:8], 'big')}"
