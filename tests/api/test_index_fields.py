"""A collection indexes all fields, or those that it names; filters find the same either way."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import vecdb
from tests.checking import checked
from tests.filter_model import PATHS
from tests.metadata_world import SEED, World
from tests.places import override, value_of
from tests.segments.columns.test_evaluating import check, columns_of
from tests.serving import running_server
from vecdb.engine.segments.columns.column_part import COLUMNS
from vecdb.engine.testing import opened_of
from vecdb_cli import command_line


def test_named_fields_are_part_of_the_configuration(surface: Any) -> None:
    docs = surface.create_collection(
        "docs", 2, index_fields=["lang", "author.name", "lang", "a\\.b"]
    )
    named = ("a\\.b", "author.name", "lang")
    assert docs.config.index_fields == named
    surface.create_collection("none", 2, index_fields=[])
    surface.create_collection("all", 2)
    surface.rename_collection("docs", "notes")
    surface.collection("notes").set_collection_metadata({"owner": "x"})
    found = {each.name: each.config.index_fields for each in surface.list_collections()}
    assert found == {"all": None, "none": (), "notes": named}
    assert surface.collection("notes").config.index_fields == named


def test_named_fields_are_compared_only_if_they_are_given(surface: Any) -> None:
    made = surface.get_or_create_collection("docs", 2, index_fields=("lang", "year"))
    assert made.config.index_fields == ("lang", "year")
    assert surface.get_or_create_collection("docs", 2).config == made.config
    same = surface.get_or_create_collection("docs", 2, index_fields=["year", "lang"])
    assert same.config == made.config
    with pytest.raises(vecdb.InvalidArgumentError, match="exists with index_fields") as caught:
        surface.get_or_create_collection("docs", 2, index_fields=[])
    assert caught.value.reason == "CONFIG_MISMATCH"


@pytest.mark.parametrize(
    ("given", "reason", "said"),
    [
        ("lang", "BAD_INDEX_FIELDS", "index_fields must be a list of fields such as ['lang']"),
        ({"lang": True}, "BAD_INDEX_FIELDS", "index_fields must be a list"),
        (7, "BAD_INDEX_FIELDS", "index_fields must be a list"),
        (["lang", 7], "BAD_INDEX_FIELDS", "index_fields[1]: expected a str such as 'author.name'"),
        (["$id"], "BAD_INDEX_FIELDS", "index_fields[0]: expected a field, got '$id'"),
        (["a\\b"], "BAD_INDEX_FIELDS", "index_fields[0]: a backslash in a path"),
        (["\ud800"], "BAD_INDEX_FIELDS", "index_fields[0]: a lone surrogate"),
        ([".".join("abcdefghi")], "BAD_INDEX_FIELDS", "a path has at most 8 keys, got 9"),
        (
            [*map(str, range(257))],
            "OUT_OF_RANGE",
            "index_fields must be 0 to 256, got 257",
        ),
    ],
)
def test_names_that_are_no_fields_are_refused(
    surface: Any, given: Any, reason: str, said: str
) -> None:
    with pytest.raises(vecdb.InvalidArgumentError) as caught:
        surface.create_collection("docs", 2, index_fields=given)
    assert caught.value.reason == reason
    assert said in str(caught.value)
    assert surface.list_collections() == []


def test_server_that_would_ignore_the_names_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = [name for name in value_of("server_features") if name != "index_fields"]
    override(monkeypatch, "server_features", features)
    with running_server(tmp_path / "data") as address, vecdb.connect(address) as client:
        assert client.create_collection("all", 2).config.index_fields is None
        with pytest.raises(vecdb.UnsupportedError, match="too old for index_fields"):
            client.create_collection("docs", 2, index_fields=["lang"])
        assert [each.name for each in client.list_collections()] == ["all"]


def test_filters_find_the_same_whatever_fields_are_named(tmp_path: Path) -> None:
    draw = random.Random(SEED)
    named = draw.sample(PATHS, draw.randrange(4))
    world = World(tmp_path / "data", draw, named)
    try:
        world.index()
        world.check(20)
        world.change(20)
        world.reopen()
        world.check(10)
        assert world.with_columns()
        (segment,) = opened_of(world.docs).snapshots.snapshot().segments
        (stats,) = world.docs.stats().segments
        there = {".".join(path) for path in segment.parts[COLUMNS].paths}
        assert len(there) <= len(named), (SEED, named)
        assert "not in index_fields" in stats.columns_left_out
    finally:
        world.database.close()
    checked(tmp_path / "data")


def test_columns_hold_the_named_fields_alone() -> None:
    rows = [
        (f"r{at}", {"lang": "en", "year": at, "author": {"name": "x", "born": at}})
        for at in range(40)
    ]
    columns = columns_of(rows, named={("year",), ("author", "name"), ("gone",)})
    assert set(columns.paths) == {("year",), ("author", "name")}
    assert columns.left_out == dict.fromkeys(
        [("author",), ("author", "born"), ("lang",)], "not in index_fields"
    )
    assert columns.is_absent(("gone",))
    for condition in ({"lang": "en"}, {"year": {"$gte": 7}}, {"author": {"$exists": True}}):
        check(columns, rows, condition)


def test_other_fields_do_not_displace_a_named_one(monkeypatch: pytest.MonkeyPatch) -> None:
    override(monkeypatch, "column_paths_max", 5)
    rows = [(f"r{at}", {f"f{at}": 1, **({"rare": at} if at > 30 else {})}) for at in range(40)]
    columns = columns_of(rows, named={("rare",)})
    assert columns.paths == (("rare",),)
    assert columns.has_unlisted
    assert columns_of(rows).field(("rare",)) is None


def test_command_line_names_fields_and_shows_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(tmp_path / "data")]
    create = ["create", "--dim", "2", *data]
    assert command_line.run([*create, "docs", "--index-field", "a.b", "--index-field", "c"]) == 0
    assert command_line.run([*create, "none", "--no-index-fields"]) == 0
    assert command_line.run([*create, "all"]) == 0
    assert command_line.run([*create, "both", "--index-field", "c", "--no-index-fields"]) != 0
    capsys.readouterr()
    for name, text in (("docs", "a.b, c"), ("none", "none"), ("all", "all within limits")):
        assert command_line.run(["stats", name, *data]) == 0
        (line,) = [
            line for line in capsys.readouterr().out.splitlines() if line.startswith("index fields")
        ]
        assert line.removeprefix("index fields").strip() == text
    assert command_line.run(["stats", "docs", *data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["index_fields"] == ["a.b", "c"]
