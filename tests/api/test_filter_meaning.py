"""Filters mean what docs/filters.md says: random filters on random rows, beside a plain evaluator.

The same filters go over the wire and back, and come back with the same key.
"""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.filter_model import IDS, holds, random_filter, random_metadata, random_scalars
from vecdb.filters import Filter, parse_filter
from vecdb_client.filters import filter_to_wire
from vecdb_proto import vecdb_pb2 as wire
from vecdb_server.translation.filters import filter_from_wire

SEED = random.SystemRandom().randrange(2**32)


def over_the_wire(filter: Filter) -> Filter:
    message = wire.Filter.FromString(filter_to_wire(filter).SerializeToString())
    return filter_from_wire(message)


def test_random_filters_match_what_the_plain_evaluator_matches() -> None:
    draw = random.Random(SEED)
    matched, looked = 0, 0
    for _ in range(40):
        scalars = random_scalars(draw)
        rows = [(draw.choice(IDS), random_metadata(draw, scalars)) for _ in range(20)]
        rows.append(("a", {}))
        for _ in range(25):
            condition = random_filter(draw, scalars)
            found = parse_filter(condition)
            for id, metadata in rows:
                expected = holds(condition, id, metadata)
                raw = json.dumps(metadata, ensure_ascii=draw.random() < 0.5).encode()
                assert found.matches(id, metadata) is expected, (SEED, condition, id, metadata)
                assert found.matches_json(id, raw) is expected, (SEED, condition, id, metadata)
                matched += expected
                looked += 1
            assert found.matches_json("b", b"") is holds(condition, "b", {}), (SEED, condition)
    assert 0.15 * looked < matched < 0.85 * looked  # The draws are of either kind.


def test_random_filters_come_back_over_the_wire_and_from_their_root() -> None:
    draw = random.Random(SEED)
    for _ in range(400):
        condition = random_filter(draw)
        found = parse_filter(condition)
        back = over_the_wire(found)
        assert back.key == found.key, (SEED, condition)
        assert repr(back.root) == repr(found.root), (SEED, condition)
        assert Filter(found.root).key == found.key, (SEED, condition)


def test_random_filters_of_equal_meaning_have_one_key() -> None:
    draw = random.Random(SEED)
    for _ in range(200):
        one, other = random_filter(draw), random_filter(draw)
        pairs: list[tuple[Any, Any]] = [
            ({"$and": [one, other]}, {"$and": [other, one, {}, other]}),
            ({"$or": [one, other]}, {"$or": [other, one, {"$or": []}, {"$and": [other]}]}),
            ({"$not": {"$not": one}}, one),
        ]
        for left, right in pairs:
            assert parse_filter(left).key == parse_filter(right).key, (SEED, left, right)


def test_random_filters_with_one_key_match_the_same_rows() -> None:
    draw = random.Random(SEED)
    rows = [(draw.choice(IDS), random_metadata(draw)) for _ in range(50)]
    by_key: dict[bytes, list[bool]] = {}
    again = 0
    for _ in range(1_500):
        found = parse_filter(random_filter(draw, depth=1))
        answers = [found.matches(id, metadata) for id, metadata in rows]
        again += found.key in by_key
        assert by_key.setdefault(found.key, answers) == answers, (SEED, found)
    assert again > 20


@pytest.mark.parametrize(
    ("given_filter", "metadata", "expected"),
    [
        ({"n": 2**53 + 1}, {"n": float(2**53)}, False),
        ({"n": float(2**53)}, {"n": 2**53 + 1}, False),
        ({"n": {"$gt": float(2**53)}}, {"n": 2**53 + 1}, True),
        ({"n": 2**53}, {"n": float(2**53)}, True),
        ({"n": {"$gt": 2**63 - 1}}, {"n": 2**63}, True),
        ({"n": {"$gt": 2**63 - 1}}, {"n": float(2**63)}, True),
        ({"n": 1}, {"n": True}, False),
        ({"n": True}, {"n": 1}, False),
        ({"n": {"$in": [0, 1]}}, {"n": [True, False]}, False),
        ({"n": {"$in": [True]}}, {"n": [1, 1.0]}, False),
        ({"n": {"$lt": 2}}, {"n": True}, False),
        ({"t": {"$lt": "\U0001f600"}}, {"t": "\uffff"}, True),
    ],
)
def test_numbers_booleans_and_code_points(
    given_filter: Any, metadata: dict[str, Any], expected: bool
) -> None:
    found = parse_filter(given_filter)
    raw = json.dumps(metadata).encode()
    assert found.matches_json("x", raw) is expected
    assert over_the_wire(found).matches_json("x", raw) is expected


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": "x/\\"y"}',
        b'{"a":"x\\/\\u0022y"}',
        b'{"\\u0061":"\\u0078/\\"y"}',
        b' \t\n{"a" : "x\\u002F\\"y"} ',
        b'{"a":["z","x/\\"y"]}',
    ],
)
def test_the_same_text_in_any_form_of_json_matches(raw: bytes) -> None:
    text = 'x/"y'
    yes: list[dict[str, Any]] = [
        {"a": text},
        {"a": {"$in": [text, "q"]}},
        {"a": {"$prefix": 'x/"'}},
    ]
    yes += [{"$or": [{"a": text}, {"b": "q"}]}, {"a": text, "b": {"$ne": "q"}}]
    for condition in yes:
        assert parse_filter(condition).matches_json("x", raw), condition
    for condition in ({"a": "x/"}, {"b": text}, {"a": {"$prefix": "y"}}, {"a": {"$ne": text}}):
        assert not parse_filter(condition).matches_json("x", raw), condition


@pytest.mark.parametrize("text", ["2", "2.0", "2e0", "0.2e1", "200E-2", "2.00"])
def test_the_same_number_in_any_form_of_json_matches(text: str) -> None:
    raw = f'{{"a":{text},"b":[{text}]}}'.encode()
    for condition in ({"a": 2}, {"b": 2.0}, {"b": {"$contains_all": [2]}}, {"a": {"$in": [1, 2]}}):
        assert parse_filter(condition).matches_json("x", raw), condition
    assert not parse_filter({"a": {"$ne": 2}}).matches_json("x", raw)


def test_a_stored_text_that_is_not_json_is_an_error() -> None:
    for raw in (b'{"a": ', b'{"a": "\xff"}', b"a"):
        with pytest.raises(ValueError):
            parse_filter({"a": {"$gt": 1}}).matches_json("x", raw)
