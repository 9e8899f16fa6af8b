"""Metadata that JSON would change is refused, with its row and the place in it."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vecdb
from tests import index_files
from tests.serving import running_server
from vecdb import checks, json_objects
from vecdb.json_objects import NotJsonError
from vecdb_cli import sidecars
from vecdb_client.testing import calls_of
from vecdb_proto import vecdb_pb2 as wire
from vecdb_proto.codec import encode_matrix


class Colour(enum.StrEnum):
    RED = "red"


class Shape(str, enum.Enum):
    ROUND = "round"


class Level(enum.IntEnum):
    HIGH = 3


class Word(str):
    """A key that is a str, but equal to no other key."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


CIRCLE: dict[str, Any] = {"list": []}
CIRCLE["list"] += [CIRCLE] * 100

OBJECTS_REFUSED: dict[str, tuple[Any, str]] = {
    "int and its text as keys": ({1: "a", "1": "b"}, "keys that are str, got int 1"),
    "int key": ({"a": {"b": {7: 1}}}, "at a.b: expected keys that are str, got int 7"),
    "bool key": ({True: 1}, "keys that are str, got bool True"),
    "None key": ({"a": [0, {None: 1}]}, "at a[1]: expected keys that are str, got NoneType None"),
    "float key": ({1.5: 1}, "got float 1.5"),
    "NaN key": ({math.nan: 1}, "got float nan"),
    "bytes key": ({b"a": 1}, "got bytes b'a'"),
    "key of a tuple": ({"a": {(1, 2): 1}}, "at a: expected keys that are str, got tuple"),
    "endless int key": ({10**5_000: 1}, "got int ..."),
    "two keys of one text": ({Word("a"): 1, Word("a"): 2}, "duplicate key 'a'"),
    "NaN": ({"a": {"b": [0, 1, math.nan]}}, "at a.b[2]: expected a finite number, got nan"),
    "infinity": ({"a": (0, -math.inf)}, "at a[1]: expected a finite number, got -inf"),
    "numpy NaN": ({"a": np.float64("nan")}, "at a: expected a finite number, got nan"),
    "surrogate": ({"a": "xy\ud83d"}, "at a: lone surrogate U+D83D at character 2"),
    "surrogate in a key": ({"a": {"x\udc00": 1}}, "at a: key 'x\\udc00' has a lone surrogate"),
    "numpy integer": ({"a b": [np.int64(1)]}, "at ['a b'][0]: int64 is not a JSON type"),
    "numpy float32": ({"a": np.float32(1)}, "at a: float32 is not a JSON type"),
    "numpy bool": ({"a": np.True_}, "at a: bool is not a JSON type"),
    "array": ({"a": np.zeros(2)}, "at a: ndarray is not a JSON type"),
    "masked": ({"a": [1, np.ma.masked]}, "at a[1]: MaskedConstant is not a JSON type"),
    "bytes": ({"a": b"x"}, "at a: bytes is not a JSON type"),
    "Decimal": ({"a": decimal.Decimal(1)}, "at a: Decimal is not a JSON type"),
    "datetime": ({"a": datetime.date(2020, 1, 1)}, "at a: date is not a JSON type"),
    "set": ({"a": {1}}, "at a: set is not a JSON type"),
    "endless int": ({"a": [10**5_000]}, "at a[0]: Exceeds the limit"),
    "circle": (CIRCLE, "at list[0]: the dict contains itself"),
}
OBJECTS_TAKEN: dict[str, tuple[Any, Any]] = {
    "enumerations": ({"c": Colour.RED, Colour.RED: Level.HIGH}, {"c": "red", "red": 3}),
    "enumerations without a str": ({Shape.ROUND: [Shape.ROUND]}, {"round": ["round"]}),
    "tuple": ({"a": (1, (2.5, None))}, {"a": [1, [2.5, None]]}),
    "huge integers": ({"a": [2**63, -(2**64), 10**4_000]}, {"a": [2**63, -(2**64), 10**4_000]}),
    "numpy float64": ({"a": np.float64(0.1)}, {"a": 0.1}),
    "astral": ({"\U0001f600": "\U0001f600\0\n"}, {"\U0001f600": "\U0001f600\0\n"}),
    "denormal": ({"a": 5e-324, "b": 1.7976931348623157e308},) * 2,
    "words": ({"a": [True, False, None, "", {}, []]},) * 2,
}
TEXTS_REFUSED: dict[str, tuple[bytes, str]] = {
    "1e999": (b'{"a": {"b": [0, 1, 1e999]}}', "at a.b[2]: '1e999' is a number that does not"),
    "-1e999": (b'{"a": -1e999}', "at a: '-1e999' is a number"),
    "digits without an exponent": (b'{"a": 1' + b"0" * 309 + b".0}", "at a: '1000"),
    "NaN": (b'{"a": [NaN]}', "at a[0]: 'NaN' is a number"),
    "Infinity": (b'{"a": -Infinity}', "at a: '-Infinity' is a number"),
    "endless int": (b'{"a": ' + b"9" * 5_000 + b"}", "at a: '9999"),
    "surrogate": (rb'{"a": ["\uD83D"]}', "at a[0]: lone surrogate U+D83D at character 0"),
    "surrogates in the wrong order": (rb'{"a": "\udc00\ud800"}', "lone surrogate U+DC00"),
    "surrogate in a key": (rb'{"a": {"\ud800": 1}}', "at a: key '\\ud800' has a lone surrogate"),
    "key twice": (b'{"a": {"b": 1, "c": 2, "b": 3}}', "at a: duplicate key 'b'"),
    "key twice by escape": (rb'{"a": 1, "\u0061": 2}', "duplicate key 'a'"),
    "bytes of a surrogate": (b'{"a": "\xed\xa0\x80"}', "byte 7 is not UTF-8"),
    "no UTF-8": (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf{}", "Expecting value: line 1 column 1"),
    "two values": (b"{} {}", "Extra data"),
    "single quotes": (b"{'a': 1}", "Expecting property name"),
}
TEXTS_TAKEN: dict[str, bytes] = {
    "pair": rb'{"a": "\uD83D\uDE00 \\ud800"}',
    "minus zero": b'{"a": -0.0, "b": -0}',
    "more digits than a float has": b'{"a": 0.1000000000000000055511151231257827, "b": 1e-999}',
    "huge integer": b'{"a": 123456789012345678901234567890}',
    "spaces": b' {"a" : [ 1 , 2 ] } ',
}


@pytest.mark.parametrize("case", OBJECTS_REFUSED)
def test_object_that_would_change_in_json_is_refused_with_its_place(case: str) -> None:
    entry, words = OBJECTS_REFUSED[case]
    with pytest.raises(vecdb.InvalidArgumentError) as caught:
        checks.check_metadata([{"fine": 1}, None, entry], 3)
    assert "metadata: row 2 is not JSON: " in caught.value.message
    assert words in caught.value.message
    assert caught.value.reason == "BAD_METADATA"
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("case", TEXTS_REFUSED)
def test_json_text_that_would_change_is_refused_with_its_place(case: str) -> None:
    text, words = TEXTS_REFUSED[case]
    with pytest.raises(vecdb.InvalidArgumentError) as caught:
        checks.check_raw_metadata([b"", text], 2)
    assert "metadata: row 1 is not JSON: " in caught.value.message
    assert words in caught.value.message
    assert caught.value.reason == "BAD_METADATA"


@pytest.mark.parametrize("case", OBJECTS_TAKEN)
def test_object_unchanged_by_json_is_accepted(case: str) -> None:
    entry, expected = OBJECTS_TAKEN[case]
    raw = checks.check_metadata([entry], 1)
    assert raw is not None and json.loads(raw[0]) == expected
    assert checks.check_raw_metadata(raw, 1) == raw


def test_enumeration_ids_become_their_texts() -> None:
    ids = [Colour.RED, Shape.ROUND, Level.HIGH]
    assert checks.check_ids(ids, unique=True) == ["red", "round", "3"]


@pytest.mark.parametrize("case", TEXTS_TAKEN)
def test_json_text_is_stored_unchanged(case: str) -> None:
    assert checks.check_raw_metadata([TEXTS_TAKEN[case]], 1) == [TEXTS_TAKEN[case]]


def test_too_deep_object_is_refused_for_its_depth_first() -> None:
    text = b'{"a":' * 10 + b"1e999" + b"}" * 10
    with pytest.raises(vecdb.InvalidArgumentError) as caught:
        checks.check_raw_metadata([text], 1)
    assert caught.value.reason == "METADATA_TOO_DEEP"


_LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary()
)
_KEYS = st.text(st.characters(), max_size=3) | st.integers(0, 3) | st.booleans() | st.none()
_OBJECTS = st.dictionaries(
    _KEYS | st.sampled_from(["0", "1", "true", "null", "\ud800"]),
    st.recursive(
        _LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@given(entry=_OBJECTS)
def test_any_object_is_returned_equal_or_refused(entry: dict[Any, Any]) -> None:
    try:
        raw = json_objects.encode(entry)
        json_objects.check_comes_back(entry)
    except NotJsonError:
        # A refused object differs from what any JSON reader would return.
        try:
            written = json.dumps(entry, skipkeys=True, default=str, allow_nan=False)
        except ValueError:
            return
        assert json.loads(written) != entry or "\\ud" in written
        return
    assert json_objects.decode(raw) == entry
    assert repr(json_objects.decode(raw)) == repr(entry)


def test_embedded_and_remote_refuse_objects_that_would_change(surface: Any) -> None:
    docs = surface.create_collection("docs", 2)
    vectors = np.eye(2, dtype=np.float32)
    for entry, words in OBJECTS_REFUSED.values():
        for write in (docs.upsert, docs.upsert_many):
            with pytest.raises(vecdb.InvalidArgumentError) as caught:
                write(["a", "b"], vectors, [{}, entry])
            assert "row 1" in caught.value.message and words in caught.value.message
    assert docs.count() == 0
    entries = [entry for entry, _ in OBJECTS_TAKEN.values()]
    ids = list(OBJECTS_TAKEN)
    docs.upsert(ids, np.ones((len(ids), 2), np.float32), entries)
    assert docs.get(ids).metadata == [expected for _, expected in OBJECTS_TAKEN.values()]
    for text in ("a\ud800", "\udfff"):
        for call in (
            lambda text=text: docs.upsert(["b", text], vectors),
            lambda text=text: docs.get([text]),
            lambda text=text: docs.delete([text]),
        ):
            with pytest.raises(vecdb.InvalidArgumentError):
                call()
    assert docs.count() == len(ids)


def test_server_refuses_invalid_json_texts(tmp_path: Path) -> None:
    with running_server(tmp_path / "data") as address, vecdb.connect(address) as client:
        docs = client.create_collection("docs", 2)
        vectors = encode_matrix(np.ones((2, 2), np.float32))
        for text, words in TEXTS_REFUSED.values():
            request = wire.UpsertRequest(
                collection="docs", ids=["a", "b"], vectors=vectors, metadata=[b"", text]
            )
            with pytest.raises(vecdb.InvalidArgumentError) as caught:
                calls_of(client).write("Upsert", request)
            assert "row 1" in caught.value.message and words in caught.value.message
        assert docs.count() == 0


def test_invalid_line_of_a_file_is_refused_with_its_place(tmp_path: Path, database: Any) -> None:
    index = tmp_path / "x.faiss"
    index_files.write("flat-ids", index, n=6)
    lines, side = tmp_path / "lines.jsonl", tmp_path / "x.faiss.meta.jsonl"
    for text, words in (
        ('{"a": 1e999}', "at a: '1e999'"),
        (r'{"a": ["\ud800"]}', "at a[0]: lone surrogate"),
        ('{"a": 1, "a": 2}', "duplicate key 'a'"),
    ):
        lines.write_text(f"{{}}\n{text}\n")
        good, error = sidecars.metadata_source(lines)
        assert good == {} and isinstance(error, vecdb.InvalidArgumentError)
        assert "line 2" in error.message and words in error.message
        for entry in (text, json.dumps(text)):
            side.write_text(f'{{"faiss_id": 100, "id": "a", "metadata": {entry}}}\n')
            with pytest.raises(vecdb.InvalidArgumentError) as caught:
                database.import_faiss(index, "docs")
            assert words.removeprefix("at ") in caught.value.message
            assert caught.value.reason == "BAD_META"
    side.write_text('{"faiss_id": 100, "id": "a\\ud800", "metadata": null}\n')
    with pytest.raises(vecdb.InvalidArgumentError, match="line 1: not JSON: at id: lone surrogate"):
        database.import_faiss(index, "docs")
    side.write_text('{"faiss_id": 100, "id": "a", "id": "b"}\n')
    with pytest.raises(vecdb.InvalidArgumentError, match="line 1: not JSON: duplicate key 'id'"):
        database.import_faiss(index, "docs")
    assert database.list_collections() == []


def test_masked_vectors_are_refused_if_a_value_is_masked(surface: Any) -> None:
    docs = surface.create_collection("docs", 2)
    masked = np.ma.array(np.ones((3, 2), np.float32), mask=[[0, 0], [0, 1], [1, 1]])
    wide = masked.astype(np.float64)
    objects = np.empty(3, object)
    objects[:] = list(masked)
    message = r"row 1( \(id 'b'\))? is masked at component 1"
    for write in (docs.upsert, docs.upsert_many):
        for vectors in (masked, wide, list(masked), tuple(masked), list(wide), objects):
            with pytest.raises(vecdb.InvalidArgumentError, match=message) as caught:
                write(["a", "b", "c"], vectors)
            assert caught.value.reason == "MASKED"
    for query in (masked, list(masked), wide, objects):
        with pytest.raises(vecdb.InvalidArgumentError, match=f"query: {message}"):
            docs.search(query)
    for query in (masked[1], [masked[1]]):
        with pytest.raises(vecdb.InvalidArgumentError, match="row 0 is masked at component 1"):
            docs.search(query)
    with pytest.raises(vecdb.InvalidArgumentError):
        docs.upsert(np.ma.array([1, 2], mask=[0, 1]), np.ones((2, 2)))
    assert docs.count() == 0
    plain = np.ma.array(np.ones((2, 2), np.float32), mask=False)
    docs.upsert(["a", "b"], plain)
    docs.upsert_many(["c", "d"], list(plain))
    assert len(docs.search(plain[0], k=4)) == 4
    assert docs.search(plain[:0]) == docs.search(np.ma.array(np.zeros((0, 2)))) == []
