"""The option --filter: JSON text, and messages for what is not JSON or not a filter."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import vecdb
from tests.serving import running_server
from vecdb.errors import InvalidArgumentError
from vecdb.filters import parse_filter
from vecdb_cli import command_line
from vecdb_cli.commands.filters import read_filter


def test_a_filter_is_read_from_json() -> None:
    assert read_filter(None) is None
    given = {"year": {"$gte": 2020}, "name": "é", "big": 2**53 + 1}
    text = '{"year": {"$gte": 2020}, "name": "é", "big": 9007199254740993}'
    assert read_filter(text) == parse_filter(given)
    assert read_filter("{}") == parse_filter({})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--filter is not JSON: "),
        ("{year: 2020}", 'write it in single quotes, as in --filter \'{"year": {"$gte": 2020}}\''),
        ("{'year': 2020}", "--filter is not JSON: "),
        ('{"year": NaN}', "--filter is not JSON: at year: 'NaN'"),
        ('{"year": 1, "year": 2}', "--filter is not JSON: duplicate key 'year'"),
        ('{"year": "\\ud800"}', "lone surrogate U+D800"),
        ("\udcff", "--filter is not JSON: byte 0 is not UTF-8"),
        ("[" * 100_000, "--filter is not JSON: nests too deep"),
        ("[1]", "filter: expected an object"),
        ('{"year": {"$gte": [1]}}', "filter.year.$gte: expected a number or a string, got a list"),
        ('{"year": {"": 2020}}', "if the shell removed a $..., use single quotes"),
    ],
)
def test_a_bad_filter_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(message)) as caught:
        read_filter(text)
    assert caught.value.reason == "BAD_FILTER"


@pytest.fixture(params=["--data", "--url"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """The options that name a database of three rows."""
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", 2)
        years = [{"year": year} for year in (2019, 2020, 2021)]
        docs.upsert(["a", "b", "c"], np.eye(3, 2) + 1, years)
    if request.param == "--data":
        yield ["--data", str(tmp_path / "data")]
        return
    with running_server(tmp_path / "data", indexer=False) as address:
        yield ["--url", address]


def test_a_search_takes_a_filter(where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    search = ["search", "docs", "--id", "a", *where, "--filter"]
    assert command_line.run([*search, '{"year": {"$gte": 2020}}', "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(hit["id"] for hit in found["hits"]) == ["b", "c"]
    assert found["info"]["matches"] == 2
    assert command_line.run([*search, '{"$id": "c"}']) == 0
    said = capsys.readouterr().out
    assert "2021" in said and "2019" not in said and "1 matching row" in said
    assert command_line.run([*search, '{"year": {"$gt": null}}']) == 1
    said = capsys.readouterr().err
    assert said == "vecdb: filter.year.$gt: expected a number or a string, got null\n"


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The output of a command that succeeds."""
    assert command_line.run(list(arguments)) == 0
    return capsys.readouterr().out


def test_rows_are_counted_and_deleted(where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    recent = ["--filter", '{"year": {"$gte": 2020}}']
    assert said(capsys, "count", "docs", *where) == "3\n"
    assert said(capsys, "count", "docs", *where, *recent) == "2\n"
    found = said(capsys, "count", "docs", *where, *recent, "--json")
    assert json.loads(found) == {"collection": "docs", "count": 2}
    delete = ["delete", "docs", *where]
    assert said(capsys, *delete, *recent, "--dry-run") == "2 rows would be deleted\n"
    assert said(capsys, *delete, *recent, "--limit", "1") == "1 row deleted, seq 2\n"
    assert json.loads(said(capsys, *delete, "a", "nobody", "--json"))["count"] == 1
    assert said(capsys, "count", "docs", *where) == "1\n"
    for wrong in ([], ["a", *recent]):
        assert command_line.run([*delete, *wrong]) == 1
        assert capsys.readouterr().err == "vecdb: give either ids or --filter\n"


def test_values_and_fields_are_listed(where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    facet = ["facet", "docs", "year", *where]
    table = said(capsys, *facet, "--filter", '{"year": {"$ne": 2019}}').splitlines()
    assert [line.split() for line in table[:3]] == [["value", "rows"], ["2020", "1"], ["2021", "1"]]
    assert table[3] == "2 values in 2 rows"
    found = json.loads(said(capsys, *facet, "--limit", "1", "--json"))
    assert found["values"] == [{"value": 2019, "rows": 1}] and found["distinct"] == 3
    table = said(capsys, "fields", "docs", *where).splitlines()
    assert table[1].split() == ["year", "3", "3", "integer", "3"]
    found = json.loads(said(capsys, "fields", "docs", *where, "--json"))
    assert [each["name"] for each in found["fields"]] == ["year"]
