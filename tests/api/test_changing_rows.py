"""Writes by what rows say: set_metadata, deletes by filter, on_existing; embedded and remote."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.places import override, value_of
from tests.serving import running_server
from vecdb.engine.store.purging import purge_all
from vecdb.engine.testing import opened_of
from vecdb.filters import parse_filter
from vecdb.metadata_checks import DEFAULT_BYTES

RNG = np.random.default_rng(5)


def rows(count: int, dim: int = 4) -> np.ndarray:
    return RNG.normal(size=(count, dim)).astype(np.float32)


def filled(surface: Any, count: int = 20) -> Any:
    docs = surface.create_collection("docs", 4)
    metadata = [{"n": i, "even": i % 2 == 0, "in": {"n": i}} for i in range(count)]
    docs.upsert([f"r{i}" for i in range(count)], rows(count), metadata)
    return docs


def refusal(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(vecdb.VecdbError) as caught:
        call(*arguments, **options)
    return caught.value.reason


# ----------------------------------------------------------------------------------- set_metadata


def test_merge_sets_keys_and_keeps_the_others(surface: Any) -> None:
    docs = filled(surface)
    before = docs.get(["r1"]).vectors.tobytes()
    receipt = docs.set_metadata(["r1", "r2"], {"in": {"x": None}, "new": [1]})
    assert receipt == vecdb.Receipt(2, 2)
    found = docs.get(["r1", "r2", "r3"])
    assert found.metadata[0] == {"n": 1, "even": False, "in": {"x": None}, "new": [1]}
    assert found.metadata[2] == {"n": 3, "even": False, "in": {"n": 3}}
    assert found.vectors[0].tobytes() == before
    assert docs.stats().next_row == 20


def test_replace_and_delete_keys(surface: Any) -> None:
    docs = filled(surface)
    docs.set_metadata(["r1", "r2"], [{"only": 1}, None], "replace")
    assert docs.get(["r1", "r2"]).metadata == [{"only": 1}, {}]
    assert docs.set_metadata(["r3", "r1"], ["in.n", "absent", "n.x"], "delete_keys").count == 1
    assert docs.get(["r3"]).metadata == [{"n": 3, "even": False, "in": {}}]
    docs.set_metadata(["r4"], {"a.b": 1, "$c": 2}, "merge")
    receipt = docs.set_metadata(["r4", "r3"], [["a\\.b", "\\$c", "in"], []], "delete_keys")
    assert receipt.count == 1
    assert docs.get(["r4"]).metadata == [{"n": 4, "even": True}]


def test_each_id_may_have_a_patch_of_its_own(surface: Any) -> None:
    docs = filled(surface)
    receipt = docs.set_metadata(["r9", "nobody", "r1"], [{"a": 1}, {"a": 2}, {"a": 3}])
    assert receipt == vecdb.Receipt(2, 2, skipped=("nobody",))
    assert [entry.get("a") for entry in docs.get(["r1", "r9"]).metadata] == [3, 1]
    assert refusal(docs.set_metadata, ["r1", "r2"], [{"a": 1}]) == "COUNT_MISMATCH"
    assert refusal(docs.set_metadata, ["r1", "r1"], {"a": 1}) == "DUPLICATE_ID"


def test_a_patch_that_changes_nothing_is_no_change(surface: Any) -> None:
    docs = filled(surface)
    seq = docs.get(["r1"]).seq
    assert docs.set_metadata(["r1"], {"n": 1}).count == 0
    assert docs.set_metadata(["r1"], {}).count == 0
    # A boolean is another value than a number, and an integer than a float.
    docs.upsert(["r1"], docs.get(["r1"]).vectors, docs.get(["r1"]).metadata, if_seq=seq)
    assert docs.set_metadata(["r1"], {"n": True}).count == 1
    assert docs.set_metadata(["r1"], {"n": 1.0}).count == 1
    assert type(docs.get(["r1"]).metadata[0]["n"]) is float
    assert refusal(docs.delete, ["r1"], if_seq=seq) == "CONDITION_CHANGED"


def test_numbers_that_are_not_touched_keep_their_digits(surface: Any) -> None:
    docs = filled(surface)
    big = {"i": 2**63 + 1, "f": 1e-7, "d": -0.0, "big": 1e300, "n": 1}
    docs.set_metadata(["r1"], big, "replace")
    docs.set_metadata(["r1"], {"more": 0.1}, "merge")
    docs.set_metadata(["r1"], ["n"], "delete_keys")
    found = docs.get(["r1"])
    del big["n"]
    assert found.metadata == [{**big, "more": 0.1}]
    assert found.raw_metadata[0] == json.dumps({**big, "more": 0.1}, separators=(",", ":")).encode()


def test_metadata_too_large_after_a_merge_change_nothing(surface: Any) -> None:
    docs = filled(surface)
    half = "x" * (DEFAULT_BYTES * 2 // 3)
    docs.set_metadata(["r1"], {"a": half})
    assert refusal(docs.set_metadata, ["r2", "r1"], {"b": half}) == "METADATA_TOO_LARGE"
    assert refusal(docs.set_metadata, filter={}, patch={"b": half}) == "METADATA_TOO_LARGE"
    assert docs.get(["r2"]).metadata == [{"n": 2, "even": True, "in": {"n": 2}}]
    assert docs.stats().seq == 2


def test_a_row_beyond_the_limit_does_not_refuse_the_others(surface: Any) -> None:
    docs = surface.create_collection("docs", 4)
    docs.upsert(["a", "b"], rows(2), [{"t": "x"}, {"t": "x" * 60_000}])
    long = {"p": "y" * 10_000}
    assert docs.set_metadata(filter={}, patch=long, limit=1, dry_run=True).count == 1
    assert docs.set_metadata(filter={}, patch=long, limit=1).count == 1
    assert refusal(docs.set_metadata, filter={}, patch=long, limit=1) == "METADATA_TOO_LARGE"
    assert refusal(docs.set_metadata, filter={"p": {"$exists": False}}, patch=long) == (
        "METADATA_TOO_LARGE"
    )
    assert docs.get(["a", "b"]).metadata == [{"t": "x", **long}, {"t": "x" * 60_000}]


def test_wrong_modes_and_patches_are_refused(surface: Any) -> None:
    docs = filled(surface)
    assert refusal(docs.set_metadata, ["r1"], {"a": 1}, "update") == "BAD_MODE"
    assert refusal(docs.set_metadata, ["r1"], {"a": 1}, None) == "BAD_MODE"
    for patch in (None, "a", 7, {"a"}):
        assert refusal(docs.set_metadata, ["r1"], patch) == "BAD_PATCH"
    for patch in ([7], "n", {"n": 1}, ["a\\b"], [["n", 1]], ["a.b.c.d.e.f.g.h.i"], ["\ud800"]):
        assert refusal(docs.set_metadata, ["r1"], patch, "delete_keys") == "BAD_PATCH"
    assert refusal(docs.set_metadata, ["r1"], {"a": float("nan")}) == "BAD_METADATA"
    assert refusal(docs.set_metadata, ["r1"], {1: 1}) == "BAD_METADATA"
    assert refusal(docs.set_metadata, patch=[{"a": 1}], filter={}) == "BAD_PATCH"
    assert docs.stats().seq == 1


@pytest.mark.parametrize("method", ["delete", "set_metadata"])
def test_rows_are_named_by_ids_or_a_filter(surface: Any, method: str) -> None:
    docs = filled(surface)
    call = getattr(docs, method)
    more = {} if method == "delete" else {"patch": {"a": 1}}
    assert refusal(call, **more) == "BAD_TARGET"
    assert refusal(call, ids=["r1"], filter={}, **more) == "BAD_TARGET"
    assert refusal(call, ids=["r1"], limit=1, **more) == "BAD_TARGET"
    assert refusal(call, filter={"n": {"$gtt": 1}}, **more) == "BAD_FILTER"
    assert refusal(call, filter=["n"], **more) == "BAD_FILTER"
    assert refusal(call, filter={}, limit=0, **more) == "OUT_OF_RANGE"
    assert refusal(call, filter={}, limit="1", **more) == "NOT_AN_INTEGER"
    assert refusal(call, filter={}, dry_run="yes", **more) == "NOT_A_FLAG"
    assert call(ids=[], **more) == vecdb.Receipt(1, 0)
    assert (docs.count(), docs.stats().seq) == (20, 1)


# ------------------------------------------------------------------------------------- by filter


def test_delete_by_filter_deletes_the_rows_that_match(surface: Any) -> None:
    docs = filled(surface)
    assert docs.delete(filter={"n": {"$gte": 15}}, dry_run=True) == vecdb.Receipt(1, 5)
    assert docs.count() == 20
    assert docs.delete(filter={"n": {"$gte": 15}}) == vecdb.Receipt(2, 5)
    assert docs.delete(filter={"n": {"$gte": 15}}) == vecdb.Receipt(3, 0)
    assert docs.delete(filter={"even": True}, limit=3) == vecdb.Receipt(4, 3)
    assert docs.get([f"r{i}" for i in range(20)]).ids == [
        f"r{i}" for i in range(15) if i not in (0, 2, 4)
    ]
    assert docs.delete(filter={}).count == 12
    assert docs.count() == 0


def test_patch_by_filter_changes_the_rows_that_match(surface: Any) -> None:
    docs = filled(surface)
    seen = {"filter": {"even": False}, "patch": {"seen": True}}
    assert docs.set_metadata(**seen, dry_run=True) == vecdb.Receipt(1, 10)
    assert docs.set_metadata(**seen, limit=4) == vecdb.Receipt(2, 4)
    # The limit counts rows that change, so a repetition goes on with the next ones.
    assert docs.set_metadata(**seen, limit=4, dry_run=True) == vecdb.Receipt(2, 4)
    assert docs.set_metadata(**seen, limit=4) == vecdb.Receipt(3, 4)
    assert docs.set_metadata(**seen, limit=4) == vecdb.Receipt(4, 2)
    assert docs.set_metadata(**seen) == vecdb.Receipt(5, 0)
    assert docs.count({"seen": True}) == docs.count({"even": False}) == 10
    assert (
        docs.set_metadata(filter={"$id": {"$prefix": "r1"}}, patch={}, mode="replace").count == 11
    )


def test_count_by_filter_sees_every_write(surface: Any) -> None:
    docs = filled(surface)
    assert docs.count({"n": {"$lt": 7}}) == 7
    docs.upsert(["late"], rows(1), [{"n": 3}])
    docs.set_metadata(["r0"], {"n": 100})
    docs.delete(["r1"])
    assert docs.count({"n": {"$lt": 7}}) == 6
    assert docs.count({}) == docs.count() == 20
    assert docs.count({"n": {"$exists": False}}) == 0
    assert refusal(docs.count, {"n": {"$x": 1}}) == "BAD_FILTER"


def test_a_request_id_makes_writes_by_filter_take_effect_once(surface: Any) -> None:
    docs = filled(surface)
    first = docs.delete(filter={"even": True}, limit=2, request_id="d")
    assert first == vecdb.Receipt(2, 2)
    again = docs.delete(filter={"even": True}, limit=2, request_id="d")
    assert again == vecdb.Receipt(2, 2, repeated=True)
    for other in (
        lambda: docs.delete(filter={"even": True}, limit=3, request_id="d"),
        lambda: docs.delete(filter={"even": False}, limit=2, request_id="d"),
        lambda: docs.delete(["r1"], request_id="d"),
        lambda: docs.set_metadata(filter={"even": True}, patch={}, limit=2, request_id="d"),
    ):
        assert refusal(other) == "REQUEST_ID_REUSED"
    patch = docs.set_metadata(["r1", "nobody"], {"a": 1}, request_id="p")
    docs.set_metadata(["r1"], {"a": 2})
    assert docs.set_metadata(["r1", "nobody"], {"a": 1}, request_id="p") == vecdb.Receipt(
        patch.seq, 1, repeated=True, skipped=("nobody",)
    )
    assert docs.get(["r1"]).metadata[0]["a"] == 2
    for other in (
        lambda: docs.set_metadata(["r1", "nobody"], {"a": 2}, request_id="p"),
        lambda: docs.set_metadata(["r1", "nobody"], {"a": 1}, "replace", request_id="p"),
        lambda: docs.set_metadata(["r1"], {"a": 1}, request_id="p"),
    ):
        assert refusal(other) == "REQUEST_ID_REUSED"


def test_conditions_hold_for_writes_by_filter(surface: Any) -> None:
    docs = filled(surface)
    docs.set_metadata(["r3"], {"a": 1})
    assert refusal(docs.delete, filter={"n": {"$lt": 5}}, if_seq=1) == "CONDITION_CHANGED"
    assert refusal(docs.set_metadata, ["r3"], {"b": 1}, if_seq=1) == "CONDITION_CHANGED"
    assert refusal(docs.set_metadata, ["nobody"], {"b": 1}, if_seq=2) == "CONDITION_CHANGED"
    assert refusal(docs.delete, filter={"n": 1}, if_seq=9) == "CONDITION_CHANGED"
    assert refusal(docs.delete, filter={"n": 1}, if_seq=0) == "CONDITION_CHANGED"
    assert docs.set_metadata(["r3"], {"b": 1}, if_seq=2).count == 1
    assert docs.delete(filter={"n": {"$gte": 5}}, if_seq=1) == vecdb.Receipt(4, 15)


def test_random_writes_by_filter_agree_with_a_plain_predicate(surface: Any) -> None:
    """Patches, deletes and upserts in turn, each compared with a dict."""
    docs, random_ = surface.create_collection("docs", 4), random.Random(7)
    model: dict[str, dict[str, Any]] = {}
    for step in range(40):
        wanted = parse_filter({"n": {random_.choice(["$lt", "$gte", "$eq"]): random_.randrange(9)}})
        matching = [name for name in model if wanted.matches(name, model[name])]
        kind = random_.choice(["upsert", "upsert", "patch", "delete"])
        if kind == "upsert":
            names = random_.sample([f"r{i}" for i in range(60)], 20)
            entries = [{"n": random_.randrange(9), "s": step} for _ in names]
            docs.upsert(names, rows(20), entries)
            for name, entry in zip(names, entries, strict=True):
                model.pop(name, None)  # A new row is the last one.
                model[name] = entry
        elif kind == "patch":
            patch = {"n": random_.randrange(9)}
            changing = [name for name in matching if model[name]["n"] != patch["n"]][:7]
            receipt = docs.set_metadata(filter=wanted, patch=patch, limit=7)
            assert receipt.count == len(changing)
            for name in changing:
                model[name] = {**model[name], **patch}
        else:
            assert docs.delete(filter=wanted, limit=5).count == len(matching[:5])
            for name in matching[:5]:
                del model[name]
        assert docs.count(wanted) == sum(wanted.matches(name, model[name]) for name in model)
        found = docs.get(sorted(model)) if model else None
        assert found is None or found.metadata == [model[name] for name in sorted(model)]


def interfere(patch: pytest.MonkeyPatch, *writes: Callable[[], object]) -> list[int]:
    """Make other writes, one after each time that the rows of a filter were found; count them."""
    prepared, done = value_of("prepare_changes"), list[int]()

    def prepare_and_write(*arguments: Any) -> Any:
        found = prepared(*arguments)
        if len(done) < len(writes):
            done.append(len(done))
            writes[len(done) - 1]()
        return found

    override(patch, "prepare_changes", prepare_and_write)
    return done


def test_writes_by_filter_see_what_was_written_while_rows_were_found(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = filled(database)

    def others() -> None:
        docs.delete(["r1"])
        docs.set_metadata(["r3", "r4"], [{"even": True}, {"even": False}])
        docs.upsert(["r5", "new"], rows(2), [{"even": True}, {"even": False, "n": 99}])
        docs.set_metadata(["r7"], {"other": 1})

    done = interfere(monkeypatch, others)
    receipt = docs.set_metadata(filter={"even": False}, patch={"seen": 1})
    assert done == [0]
    seen = {f"r{i}" for i in range(1, 20, 2)} - {"r1", "r3", "r5"} | {"r4", "new"}
    assert receipt == vecdb.Receipt(6, len(seen))
    assert set(docs.list_ids(filter={"seen": 1})) == seen
    # Nothing that another write has changed is lost.
    assert docs.get(["r7"]).metadata[0]["other"] == docs.get(["r7"]).metadata[0]["seen"] == 1


def test_a_delete_by_filter_with_a_limit_deletes_the_first_that_match_then(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = filled(database)
    interfere(
        monkeypatch, lambda: docs.set_metadata(["r0", "r1"], [{"even": False}, {"even": True}])
    )
    assert docs.delete(filter={"even": True}, limit=3).count == 3
    assert docs.get([f"r{i}" for i in range(7)]).missing == ["r1", "r2", "r4"]


def test_a_write_by_filter_is_tried_again_if_too_much_was_written(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "evaluated_rows_max", 5)
    docs = filled(database)
    more = [{"even": False, "n": 99}] * 6
    names = [[f"{letter}{i}" for i in range(6)] for letter in "abcdefgh"]
    done = interfere(monkeypatch, lambda: docs.upsert(names[0], rows(6), more))
    assert docs.delete(filter={"even": False}).count == 16
    assert len(done) == 1
    # It gives up if that happens again and again, and has changed nothing.
    docs.upsert(["odd"], rows(1), more[:1])
    writes = [lambda each=each: docs.upsert(each, rows(6), more) for each in names]
    interfere(monkeypatch, *writes)
    assert refusal(docs.delete, filter={"even": False}) == "OVERTAKEN"
    assert docs.count({"even": False}) == 49


def test_a_write_by_filter_finds_rows_again_if_the_log_was_purged(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = filled(database)

    def purge() -> None:
        docs.delete(["r1", "r3"])
        purge_all(opened_of(docs).store, grace_s=0.0)

    interfere(monkeypatch, purge)
    assert docs.set_metadata(filter={"even": False}, patch={"seen": 1}).count == 8
    assert docs.count({"seen": 1}) == 8


# ----------------------------------------------------------------------------------- on_existing


def test_skip_leaves_existing_rows_and_names_them(surface: Any) -> None:
    docs = filled(surface, 3)
    kept = docs.get(["r1"])
    receipt = docs.upsert(
        ["x", "r1", "a"], rows(3), [{"n": 9}] * 3, on_existing="skip", request_id="s"
    )
    assert receipt == vecdb.Receipt(2, 2, skipped=("r1",))
    again = docs.upsert(
        ["x", "r1", "a"], docs.get(["x", "r1", "a"]).vectors, None, on_existing="skip"
    )
    assert again == vecdb.Receipt(3, 0, skipped=("x", "r1", "a"))
    found = docs.get(["r1", "x"])
    assert found.metadata == [{"n": 1, "even": False, "in": {"n": 1}}, {"n": 9}]
    assert found.vectors[0].tobytes() == kept.vectors[0].tobytes()
    assert docs.count() == 5


def test_a_repeated_skip_names_the_same_rows(surface: Any) -> None:
    docs, vectors = filled(surface, 3), rows(2)
    first = docs.upsert(["r1", "new"], vectors, on_existing="skip", request_id="s")
    assert first == vecdb.Receipt(2, 1, skipped=("r1",))
    docs.delete(["r1"])
    again = docs.upsert(["r1", "new"], vectors, on_existing="skip", request_id="s")
    assert again == vecdb.Receipt(2, 1, repeated=True, skipped=("r1",))
    assert refusal(docs.upsert, ["r1", "new"], vectors, request_id="s") == "REQUEST_ID_REUSED"


def test_refuse_is_insert_only(surface: Any) -> None:
    docs, vectors = filled(surface, 3), rows(2)
    assert refusal(docs.upsert, ["r1", "x"], vectors, on_existing="refuse") == "CONDITION_EXISTS"
    assert docs.upsert(["y", "x"], vectors, on_existing="refuse", request_id="o").count == 2
    assert docs.upsert(["y", "x"], vectors, insert_only=True, request_id="o").repeated
    for options in (
        {"on_existing": "skip", "insert_only": True},
        {"on_existing": "skip", "if_seq": 0},
        {"on_existing": "refuse", "if_seq": 1},
    ):
        assert refusal(docs.upsert, ["y", "x"], vectors, **options) == "BAD_CONDITION"
    for other in ("", "SKIP", None, True, 1):
        assert refusal(docs.upsert, ["y", "x"], vectors, on_existing=other) == "BAD_MODE"
        assert refusal(docs.upsert_many, ["y"], vectors[:1], on_existing=other) == "BAD_MODE"


def test_upsert_many_skips_or_refuses_existing_rows(surface: Any) -> None:
    docs = filled(surface, 10)
    names = [*(f"r{i}" for i in range(25)), "r20"]
    told: list[vecdb.IngestProgress] = []
    done = docs.upsert_many(names, rows(26), batch_rows=6, on_existing="skip", progress=told.append)
    assert (done.rows, done.skipped, docs.count()) == (26, 11, 25)
    assert done.skipped_ids == (*(f"r{i}" for i in range(10)), "r20")
    assert [each.skipped_ids for each in told] == [
        ("r0", "r1", "r2", "r3", "r4", "r5"), ("r6", "r7", "r8", "r9"), (), (), ("r20",)
    ]  # fmt: skip
    assert [each.skipped for each in told] == [6, 10, 10, 10, 11]
    with pytest.raises(vecdb.InvalidArgumentError) as refused:
        docs.upsert_many(["r1", "new", "r2", ""], rows(4), batch_rows=2, on_existing="skip")
    assert refused.value.progress.skipped_ids == ("r1",)
    docs.delete(["new"])
    assert docs.get(["r3"]).metadata[0]["n"] == 3
    with pytest.raises(vecdb.ConditionFailedError) as caught:
        docs.upsert_many(
            ["n0", "n1", "n2", "r1", "n3"], rows(5), batch_rows=2, on_existing="refuse"
        )
    assert (caught.value.reason, caught.value.progress.rows) == ("CONDITION_EXISTS", 2)


# ------------------------------------------------------------------------------ size of metadata


@pytest.fixture(params=["embedded", "remote"])
def roomy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A database whose rows may have metadata of 1 MiB."""
    option = {"metadata_bytes_max": 1024**2}
    if request.param == "embedded":
        with vecdb.open(tmp_path / "data", indexer=False, **option) as opened:
            yield opened
        return
    served = running_server(tmp_path / "data", indexer=False, **option)
    with served as address, vecdb.connect(address) as client:
        yield client


def test_metadata_of_a_mebibyte_are_stored_if_the_option_says_so(roomy: Any) -> None:
    docs = roomy.create_collection("docs", 4)
    text = "x" * (1024**2 - 100)
    vectors = rows(6)
    docs.upsert(["a", "b"], vectors[:2], [{"text": text}, None])
    docs.upsert_many(["c", "d"], vectors[2:4], [{"text": text}, {"n": 1}])
    docs.set_metadata(["b"], {"text": text})
    assert docs.set_metadata(filter={"text": text}, patch={"n": 1}).count == 3
    assert docs.count({"text": text}) == 3
    hits = docs.search(vectors[0], k=4)
    assert sorted(len(entry.get("text", "")) for entry in hits.metadata) == [0] + [len(text)] * 3
    assert docs.get(["a"]).metadata == [{"text": text, "n": 1}]
    assert [len(page) for page in docs.scroll(batch=4)] == [4]
    large = {"text": "x" * 1024**2}
    for call in (
        lambda: docs.upsert(["e"], vectors[:1], [large]),
        lambda: docs.upsert_many(["e"], vectors[:1], [large]),
        lambda: docs.set_metadata(["a"], large),
        lambda: docs.set_metadata(["a"], {"more": "x" * 1000}),
    ):
        assert refusal(call) == "METADATA_TOO_LARGE"
    assert docs.count() == 4


def test_metadata_have_64_kib_by_default(surface: Any) -> None:
    docs = surface.create_collection("docs", 4)
    docs.upsert(["a"], rows(1), [{"t": "x" * (64 * 1024 - 8)}])
    assert refusal(docs.upsert, ["a"], rows(1), [{"t": "x" * (64 * 1024 - 7)}]) == (
        "METADATA_TOO_LARGE"
    )
    assert len(docs.get(["a"]).raw_metadata[0]) == 64 * 1024


def test_rows_stay_readable_with_a_smaller_limit(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data", indexer=False, metadata_bytes_max=200_000) as database:
        database.create_collection("docs", 4).upsert(["a"], rows(1), [{"t": "x" * 150_000}])
    with vecdb.open(tmp_path / "data", indexer=False, metadata_bytes_max=1024) as database:
        docs = database.collection("docs")
        assert len(docs.get(["a"]).metadata[0]["t"]) == 150_000
        assert refusal(docs.set_metadata, ["a"], {"n": 1}) == "METADATA_TOO_LARGE"
        assert docs.set_metadata(["a"], ["t"], "delete_keys").count == 1
