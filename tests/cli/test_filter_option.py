"""The option --filter: JSON text, and messages for what is not JSON or not a filter."""

from __future__ import annotations

import re

import pytest

from vecdb.errors import InvalidArgumentError
from vecdb.filters import parse_filter
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
