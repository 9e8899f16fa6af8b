"""docs/filters.md: every line of its tables holds, and it names every operator and limit.

Lines with a row are run by the product and by the plain evaluator of the tests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import text_format

from tests.filter_model import holds
from vecdb import limits
from vecdb.errors import InvalidArgumentError
from vecdb.filters import parse_filter
from vecdb_client.filters import filter_to_wire
from vecdb_proto import vecdb_pb2 as wire
from vecdb_server.translation.filters import filter_from_wire

PAGE = (Path(__file__).resolve().parents[2] / "docs/filters.md").read_text(encoding="utf-8")


def lines_of(heading: str) -> list[tuple[str, ...]]:
    """The lines of all tables below this line of headings, each cell without its backticks."""
    return list(_lines_of(heading))


def _lines_of(heading: str) -> Iterator[tuple[str, ...]]:
    inside = False
    for line in PAGE.splitlines():
        inside = line == heading or (inside and line.startswith("|"))
        if inside and line != heading and not line.startswith("|---"):
            yield tuple(cell.strip().strip("`") for cell in line[1:-1].split(" | "))


ON_METADATA = lines_of("| Filter | Metadata | Matches |")
ON_IDS = lines_of("| Filter | Id | Matches |")
REFUSED = lines_of("| Filter | Error |")
MESSAGES = lines_of("| Python | Message |")
LIMITS = dict(lines_of("| Limit | Maximum |"))
OPERATORS = lines_of("| Operator | Operand | A row matches if |")


def test_the_page_has_examples() -> None:
    assert len(ON_METADATA) > 80 and len(ON_IDS) > 5 and len(REFUSED) > 5 and len(MESSAGES) > 5
    assert {matches for *_, matches in ON_METADATA + ON_IDS} == {"yes", "no"}


@pytest.mark.parametrize(("condition", "metadata", "matches"), ON_METADATA)
def test_an_example_on_metadata_holds(condition: str, metadata: str, matches: str) -> None:
    given, row = json.loads(condition), json.loads(metadata)
    assert parse_filter(given).matches_json("x", metadata.encode()) is (matches == "yes")
    assert parse_filter(given).matches("x", row) is (matches == "yes")
    assert holds(given, "x", row) is (matches == "yes")


@pytest.mark.parametrize(("condition", "id", "matches"), ON_IDS)
def test_an_example_on_ids_holds(condition: str, id: str, matches: str) -> None:
    assert parse_filter(json.loads(condition)).matches(id, {}) is (matches == "yes")


@pytest.mark.parametrize(("condition", "message"), REFUSED)
def test_an_example_of_an_error_holds(condition: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_filter(json.loads(condition))
    assert str(caught.value) == message
    assert caught.value.reason == "BAD_FILTER"


@pytest.mark.parametrize(("condition", "message"), MESSAGES)
def test_an_example_of_a_message_holds(condition: str, message: str) -> None:
    found = parse_filter(json.loads(condition))
    expected = text_format.Parse(message, wire.Filter())
    assert filter_to_wire(found) == expected
    assert filter_from_wire(expected) == found


def test_the_limits_are_those_of_the_code() -> None:
    numbers = {int(maximum.split()[0].replace(",", "")) for maximum in LIMITS.values()}
    assert numbers == {
        limits.FILTER_DEPTH_MAX,
        limits.FILTER_TERMS_MAX,
        limits.FILTER_OPERANDS_MAX,
        limits.FILTER_BYTES_MAX,
        limits.METADATA_DEPTH.maximum,
        64,
    }


def test_every_operator_is_in_the_table_and_in_an_example() -> None:
    named = {name for first, *_ in OPERATORS for name in re.findall(r"\$\w+", first)}
    # The message of an unknown operator lists those that there are.
    known: set[str] = set()
    for given in ({"$odd": 1}, {"f": {"$odd": 1}}, {"$id": {"$odd": 1}}):
        with pytest.raises(InvalidArgumentError) as caught:
            parse_filter(given)
        known |= set(re.findall(r"\$\w+", caught.value.message.partition("expected one of")[2]))
    assert named == known
    used = " ".join(condition for condition, *_ in ON_METADATA + ON_IDS)
    assert {name for name in named - {"$eq"} if f'"{name}"' not in used} == set()
