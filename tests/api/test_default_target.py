"""The target of recall that a collection gives to searches that ask for none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.checking import checked
from tests.model import flush_now, index_now
from tests.places import override, value_of
from tests.serving import running_server
from vecdb.engine.store import layout
from vecdb_cli import command_line
from vecdb_client import translation
from vecdb_proto import vecdb_pb2 as wire

CONFIG = vecdb.CollectionConfig(8, target_recall=0.8)


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 8)).astype(np.float32)


def target_of(docs: Any, **search: Any) -> float:
    found: float = docs.search(rows(1)[0], **search).info.recall.target
    return found


def test_searches_that_ask_for_none_have_the_target_of_the_collection(surface: Any) -> None:
    docs = surface.create_collection("docs", 8, target_recall=0.8)
    docs.upsert(["a", "b"], rows(2), [{"n": 1}, {"n": 2}])
    assert docs.config == CONFIG and surface.list_collections()[0].config == CONFIG
    assert target_of(docs) == 0.8 and target_of(docs, target_recall=0.9) == 0.9
    assert target_of(docs, filter={"n": 1}) == 0.8
    assert target_of(docs, max_distance=5) == 0.8
    exact = surface.create_collection("exact", 8, target_recall=1)
    assert exact.config.target_recall == 1 and exact.search(rows(1)[0]).info.exact


def test_get_or_create_compares_the_target_only_if_it_is_given(surface: Any) -> None:
    surface.get_or_create_collection("docs", 8, target_recall=0.8)
    assert surface.get_or_create_collection("docs", 8).config == CONFIG
    assert surface.get_or_create_collection("docs", 8, target_recall=0.8).config == CONFIG
    said = "exists with target_recall 0.8, expected target_recall 0.95"
    with pytest.raises(vecdb.InvalidArgumentError, match=said) as caught:
        surface.get_or_create_collection("docs", 8, target_recall=0.95)
    assert caught.value.reason == "CONFIG_MISMATCH"
    for wrong in (0, 1.5, float("nan"), True, "0.9"):
        with pytest.raises(vecdb.InvalidArgumentError) as caught:
            surface.create_collection("other", 8, target_recall=wrong)
        assert caught.value.reason == "BAD_TARGET_RECALL"


def test_a_server_that_would_ignore_the_target_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [name for name in value_of("server_features") if name != "collection_target_recall"]
    override(monkeypatch, "server_features", known)
    with running_server(tmp_path / "data") as address, vecdb.connect(address) as client:
        assert client.create_collection("default", 8).config.target_recall == 0.95
        with pytest.raises(vecdb.UnsupportedError, match="too old for collection_target_recall"):
            client.create_collection("docs", 8, target_recall=0.8)
        assert [each.name for each in client.list_collections()] == ["default"]


def test_the_target_stays_with_the_folder_and_its_backup(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data", indexer=False, recall_meter=0) as database:
        docs = database.create_collection("docs", 8, target_recall=0.8)
        docs.upsert_many([str(i) for i in range(2_000)], rows(2_000))
        docs.set_collection_metadata({"by": "test"})
        flush_now(docs)
        index_now(docs)
        assert docs.search(rows(1)[0]).info.plan == "graph"
        assert docs.search(rows(1)[0]).info == docs.search(rows(1)[0], target_recall=0.8).info
        database.backup(tmp_path / "backup")
    vecdb.restore(tmp_path / "backup", tmp_path / "restored")
    for folder in ("data", "restored"):
        assert checked(tmp_path / folder)[0] == []
        with vecdb.open(tmp_path / folder, indexer=False, recall_meter=0) as database:
            docs = database.collection("docs")
            assert docs.config == CONFIG and docs.metadata == {"by": "test"}
            assert target_of(docs) == 0.8


def test_entries_and_messages_without_a_target_have_the_default() -> None:
    entry = layout.config_entry("1", CONFIG)
    assert layout.config_of(entry) == CONFIG
    del entry["target_recall"]
    assert layout.config_of(entry).target_recall == 0.95
    config = wire.CollectionConfig(dim=8, metric=wire.METRIC_COSINE, m=16, ef_construction=128)
    described = translation.description_of(wire.CollectionDescription(name="docs", config=config))
    assert described.config == vecdb.CollectionConfig(8)


def test_the_command_line_sets_and_shows_the_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data", str(tmp_path / "data")]
    create = ["create", "docs", "--dim", "8", *where]
    assert command_line.run([*create, "--target-recall", "0.8"]) == 0
    capsys.readouterr()
    assert command_line.run(["stats", "docs", *where]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["target", "recall", "0.8"] in lines
    assert command_line.run(create) != 0
    assert "target_recall 0.8; asked for" in capsys.readouterr().err
