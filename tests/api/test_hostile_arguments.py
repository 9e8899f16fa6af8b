"""Every public method with every kind of wrong argument, embedded and remote.

The result is a VecdbError whose message names the argument, or success if the value is accepted.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import vecdb
from tests.serving import running_server
from vecdb.engine.api.database import Database
from vecdb_client import Client
from vecdb_client import Collection as ClientCollection

DIM = 4
ROW = np.ones((1, DIM), np.float32)


class FailingTable:
    """Like a data frame whose conversion fails."""

    def to_numpy(self) -> Any:
        raise RuntimeError("no memory for a column")

    def __array__(self, *arguments: Any, **named: Any) -> Any:
        raise RuntimeError("no memory for a column")

    def __iter__(self) -> Iterator[Any]:
        return iter(["column"])


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


def ragged() -> Any:
    out = np.empty(2, object)
    out[:] = [np.ones(3), np.ones(2)]
    return out


VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "text": lambda: "hello",
    "empty text": lambda: "",
    "bytes": lambda: b"hello",
    "surrogate": lambda: "\ud800",
    "zero byte": lambda: "a\0b",
    "five": lambda: 5,
    "minus one": lambda: -1,
    "true": lambda: True,
    "2**70": lambda: 2**70,
    "10**5000": lambda: 10**5000,
    "half": lambda: 0.5,
    "nan": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "complex": lambda: 1 + 2j,
    "object": object,
    "no repr": NoRepr,
    "function": lambda: lambda *arguments: None,
    "type": lambda: bool,
    "empty list": list,
    "list of None": lambda: [None],
    "list of text": lambda: ["a"],
    "empty dict": dict,
    "dict": lambda: {"a": 1},
    "set": lambda: {"a", "b"},
    "generator": lambda: (each for each in (object(),)),
    "0-d": lambda: np.array(1.5),
    "0-d text": lambda: np.array("a"),
    "array of complex": lambda: np.ones((1, DIM), np.complex64),
    "array of text": lambda: np.array([["1"] * DIM]),
    "array of times": lambda: np.zeros((1, DIM), "M8[s]"),
    "array of objects": lambda: np.array([[None] * DIM], dtype=object),
    "ragged objects": ragged,
    "ragged lists": lambda: [[1.0] * DIM, [1.0]],
    "three axes": lambda: np.ones((1, 1, DIM)),
    "failing table": FailingTable,
}
NUMBERS_OR_TEXT = {"None", "text", "five"}


class Case(NamedTuple):
    """A method, good arguments, and for each argument a pattern that errors name it by, and the
    values that are accepted.
    """

    good: dict[str, Any]
    words: dict[str, str]
    taken: dict[str, set[str]] = {}  # noqa: RUF012
    embedded: dict[str, set[str]] = {}  # noqa: RUF012  Only embedded.


FLAG = {"true"}
INTEGER = {"five"}
NO_FILE = "|does not exist"
SECONDS = {"None", "five", "half", "infinity", "2**70", "10**5000"}
NAME, PATH = "name", "path"

CONFIG = {
    "name": NAME,
    "dim": "dim",
    "metric": "metric",
    "M": r"\bM\b",
    "ef_construction": "ef_construction",
    "target_recall": "target_recall|exists already",
    "index_fields": "index_fields|exists already",
    "metadata": "metadata|exists already",
}
IMPORTED = {
    "path": "path|file|folder",
    "collection": NAME + NO_FILE,
    "metric": "metric" + NO_FILE,
    "meta": "meta|path|file|folder",
    "timeout_s": "timeout_s" + NO_FILE,
}

OF_DATABASE = {
    "create_collection": Case(
        {"name": "docs", "dim": DIM},
        CONFIG,
        {
            "name": {"text"},
            "dim": INTEGER,
            "M": INTEGER,
            "ef_construction": INTEGER,
            "target_recall": {"None"},
            "index_fields": {"None"},
            "metadata": {"None"},
        },
    ),
    "get_or_create_collection": Case(
        {"name": "docs", "dim": DIM},
        CONFIG,
        {
            "name": {"text"},
            "M": {"None"},
            "ef_construction": {"None"},
            "target_recall": {"None"},
            "index_fields": {"None"},
            "metadata": {"None", "empty dict", "dict"},
        },
    ),
    "collection": Case({"name": "docs"}, {"name": "name|collection"}),
    "rename_collection": Case(
        {"old": "docs", "new": "a"}, {"old": "name|collection", "new": "name"}, {"new": {"text"}}
    ),
    "drop_collection": Case({"name": "docs"}, {"name": "name|collection"}),
    "backup": Case(
        {"path": "/proc/nope"},
        {
            "path": "path|folder|already",
            "include_segments": "include_segments|folder",
        },
        embedded={"path": {"text"}},  # A server wants an absolute path.
    ),
    "import_faiss": Case({"path": "nope.faiss", "collection": "docs"}, IMPORTED),
    "import_hnswlib": Case(
        {"path": "nope.hnsw", "collection": "docs", "dim": DIM, "metric": "dot"},
        {**IMPORTED, "dim": "dim" + NO_FILE},
    ),
}

OF_COLLECTION = {
    "upsert": Case(
        {"ids": ["a"], "vectors": ROW},
        {
            "ids": r"\bids?\b", "vectors": "vectors", "metadata": "metadata",
            "insert_only": "insert_only", "on_existing": "on_existing", "if_seq": "if_seq",
            "request_id": "request_id",
        },
        {"ids": {"list of text"}, "metadata": {"None", "list of None"}, "insert_only": FLAG,
         "if_seq": {"None"},
         "request_id": {"None", "text", "zero byte"}},
    ),
    "upsert_many": Case(
        {"ids": ["a"], "vectors": ROW},
        {
            "ids": r"\bids?\b", "vectors": "vectors", "metadata": "metadata",
            "batch_rows": "batch_rows", "on_existing": "on_existing", "progress": "progress",
            "request_id": "request_id",
        },
        {"ids": {"list of text"}, "metadata": {"None", "list of None"}, "batch_rows": {"five"},
         "progress": {"None", "function", "type"}, "request_id": {"None", "text", "zero byte"}},
    ),
    "get": Case(
        {"ids": ["a"]}, {"ids": r"\bids?\b"}, {"ids": {"list of text", "empty list", "set"}}
    ),
    "count": Case({}, {"filter": "filter"}, {"filter": {"None", "empty dict", "dict"}}),
    "delete": Case(
        {"ids": ["a"]},
        {
            "ids": r"\bids?\b", "filter": "filter", "limit": "limit", "dry_run": "dry_run",
            "if_seq": "if_seq", "request_id": "request_id",
        },
        {"ids": {"list of text", "empty list", "set"}, "filter": {"None"}, "limit": {"None"},
         "dry_run": FLAG, "if_seq": {"None"}, "request_id": {"None", "text", "zero byte"}},
    ),
    "set_metadata": Case(
        {"ids": ["a"], "patch": {}},
        {
            "ids": r"\bids?\b", "patch": "patch|metadata", "mode": "mode", "filter": "filter",
            "limit": "limit", "dry_run": "dry_run", "if_seq": "if_seq", "request_id": "request_id",
        },
        {"ids": {"list of text", "empty list"}, "patch": {"empty dict", "dict", "list of None"},
         "filter": {"None"}, "limit": {"None"}, "dry_run": FLAG, "if_seq": {"None"},
         "request_id": {"None", "text", "zero byte"}},
    ),
    "search": Case(
        {"query": ROW[0]},
        {
            "query": "query", "k": r"\bk\b", "ef": r"\bef\b", "exact": "exact",
            "filter": "filter", "target_recall": "target_recall", "timeout_s": "timeout_s",
            "near": "near|ids", "away": "away|ids", "max_distance": "max_distance",
            "group_by": "group_by", "group_size": "group_size", "explain": "explain",
            "include_metadata": "include_metadata", "include_vectors": "include_vectors",
        },
        {"query": {"empty list"}, "k": {"five"}, "ef": {"None", "five"}, "exact": FLAG,
         "explain": FLAG, "filter": {"None", "dict", "empty dict", "list of None"},
         "target_recall": {"None", "half"}, "timeout_s": SECONDS, "near": {"None"},
         "away": {"None"}, "max_distance": {"None", "half", "five", "2**70"},
         "group_by": {"None", "text", "empty text", "zero byte"}, "group_size": {"None"},
         "include_metadata": FLAG, "include_vectors": FLAG},
    ),
    "set_collection_metadata": Case(
        {"metadata": {}}, {"metadata": "metadata"}, {"metadata": {"None", "empty dict", "dict"}}
    ),
    "list_ids": Case(
        {},
        {"prefix": "prefix", "filter": "filter", "limit": "limit", "after": "after"},
        {"prefix": {"text", "empty text", "zero byte"},
         "filter": {"None", "empty dict", "dict"}, "limit": {"five"},
         "after": {"None", "text", "empty text", "zero byte"}},
    ),
    "facet": Case(
        {"field": "a"},
        {"field": "field", "filter": "filter", "limit": "limit"},
        {"field": {"text", "empty text", "zero byte"}, "filter": {"None", "empty dict", "dict"},
         "limit": {"five"}},
    ),
    "scroll": Case(
        {},
        {
            "batch": "batch", "filter": "filter", "include_metadata": "include_metadata",
            "include_vectors": "include_vectors",
        },
        {"batch": {"five"}, "filter": {"None", "empty dict", "dict"}, "include_metadata": FLAG,
         "include_vectors": FLAG},
    ),
    "scroll_page": Case(
        {},
        {
            "token": "token", "batch": "batch", "filter": "filter",
            "include_metadata": "include_metadata",
            "include_vectors": "include_vectors",
        },
        {"token": {"None"}, "batch": {"five"}, "filter": {"None", "empty dict", "dict"},
         "include_metadata": FLAG,
         "include_vectors": FLAG},
    ),
    "end_scroll": Case({"token": "x"}, {"token": "token"}),
    "optimize": Case({}, {"timeout_s": "timeout_s|indexer"}),
    "export_faiss": Case(
        {"path": "/proc/nope/x", "flat": True},
        {
            "path": "path|folder|already", "flat": "flat|/proc/nope",
            "normalize_queries": "normalize_queries|/proc/nope",
            "overwrite": "overwrite|/proc/nope", "timeout_s": "timeout_s|/proc/nope",
        },
        {"path": {"text"}},
    ),
    "export_hnswlib": Case(
        {"path": "/proc/nope/x"},
        {
            "path": "path|folder|already", "overwrite": "overwrite|/proc/nope",
            "timeout_s": "timeout_s|/proc/nope",
        },
        {"path": {"text"}},
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=["embedded", "remote"])
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    data = tmp_path_factory.mktemp("hostile") / "data"
    with contextlib.ExitStack() as stack:
        if request.param == "embedded":
            yield stack.enter_context(vecdb.open(data, indexer=False))
        else:
            address = stack.enter_context(running_server(data, indexer=False))
            yield stack.enter_context(vecdb.connect(address))


@pytest.fixture
def surface(opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    yield opened
    for description in opened.list_collections():
        opened.drop_collection(description.name)


def complaint(error: Exception, word: str) -> str | None:
    """Return what is wrong with an error, or None."""
    text = str(error)
    if not isinstance(error, vecdb.VecdbError):
        return f"{type(error).__name__} is none of ours"
    if isinstance(error, vecdb.InternalError | vecdb.OutcomeUnknownError):
        return f"{type(error).__name__} for a wrong argument"
    if not re.search(word, text):
        return f"does not name {word}"
    return "of many lines" if "\n" in text or len(text) > 700 else None


def check(call: Callable[..., Any], case: Case, argument: str, embedded: bool) -> None:
    """Pass all values as one argument of a call."""
    taken, complaints = set(), []
    for name, make in VALUES.items():
        try:
            call(**{**case.good, argument: make()})
            taken.add(name)
        except Exception as error:
            wrong = complaint(error, case.words[argument])
            if wrong is not None:
                complaints.append((name, wrong, str(error)))
    assert complaints == []
    if embedded:
        taken -= case.embedded.get(argument, set())
    assert taken == case.taken.get(argument, set())


@pytest.mark.parametrize(
    ("method", "argument"), [(m, a) for m, case in OF_DATABASE.items() for a in case.words]
)
def test_methods_of_a_database_refuse_wrong_arguments(
    surface: Any, method: str, argument: str
) -> None:
    if method != "create_collection":
        surface.create_collection("docs", DIM)
    check(getattr(surface, method), OF_DATABASE[method], argument, isinstance(surface, Database))


@pytest.mark.parametrize(
    ("method", "argument"), [(m, a) for m, case in OF_COLLECTION.items() for a in case.words]
)
def test_methods_of_a_collection_refuse_wrong_arguments(
    surface: Any, method: str, argument: str
) -> None:
    docs = surface.create_collection("docs", DIM)
    check(getattr(docs, method), OF_COLLECTION[method], argument, isinstance(surface, Database))


def test_tables_cover_every_argument_of_every_public_method() -> None:
    for kind, table in ((Client, OF_DATABASE), (ClientCollection, OF_COLLECTION)):
        for name, member in inspect.getmembers(kind, inspect.isfunction):
            arguments = set(inspect.signature(member).parameters) - {"self"}
            if not name.startswith("_") and arguments:
                assert set(table[name].words) == arguments, name


ROOT_OPTIONS = {
    "threads": INTEGER,
    "seal_bytes": INTEGER,
    "segment_bytes_max": INTEGER,
    "queue_bytes_max": INTEGER,
    "backlog_bytes_max": INTEGER,
    "fresh_bytes_max": INTEGER,
    "view_bytes_max": INTEGER,
    "open_collections_max": INTEGER,
    "indexer_outlives_parent": FLAG,
    "metadata_bytes_max": set(),
    "recall_meter": {"half"},
}


@pytest.mark.parametrize("option", ROOT_OPTIONS)
def test_options_of_open_are_refused_by_name(tmp_path: Path, option: str) -> None:
    def opening(**options: Any) -> None:
        vecdb.open(tmp_path, indexer=False, **options).close()

    check(opening, Case({}, {option: option}, {option: ROOT_OPTIONS[option]}), option, True)


def test_unknown_option_is_refused_with_similar_names(tmp_path: Path) -> None:
    for call, said in (
        (lambda: vecdb.open(tmp_path, indexr=False), "no option 'indexr'; did you mean indexer"),
        (lambda: vecdb.open(tmp_path, nonsense=1), "options: backlog_bytes_max, .*view_bytes_max"),
        (lambda: vecdb.connect(timeout=3), "no option 'timeout'; did you mean timeout_s"),
        (
            lambda: vecdb.connect("h:1", nonsense=1),
            "no option 'nonsense'; options: insecure, timeout_s",
        ),
    ):
        with pytest.raises(vecdb.InvalidArgumentError, match=said) as caught:
            call()
        assert caught.value.reason == "BAD_OPTION"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "call", [vecdb.open, vecdb.check, vecdb.compact, vecdb.restore], ids=lambda f: f.__name__
)
def test_functions_of_a_folder_refuse_other_arguments(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hello").write_text("a file")
    more = {"path": "/proc/nope"} if call is vecdb.restore else {}
    name = "backup" if call is vecdb.restore else "path"
    words = {name: "path|folder|database|backup|file"}
    check(lambda **named: call(**{**more, **named}), Case({}, words), name, True)
    loop, file = tmp_path / "loop", tmp_path / "hello"
    loop.symlink_to(loop)
    for path in ("/proc/nope/x", file, file / "x", "x" * 300, loop, loop / "x", "~nobody-9/x"):
        with pytest.raises(vecdb.VecdbError, match=words[name]) as caught:
            call(path, **more)
        assert type(caught.value) not in (vecdb.InternalError, vecdb.UnavailableError)
    if call is vecdb.restore:
        case = Case({}, {"path": "path|backup", "include_segments": "include_segments|backup"})
        for argument in case.words:
            check(lambda **named: call(tmp_path, **{**more, **named}), case, argument, True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["hello", "loop"]


CHECKED = {"repair": "repair", "findable": "findable", "sample": "sample", "progress": "progress"}


@pytest.mark.parametrize("argument", CHECKED)
def test_options_of_a_check_are_refused_by_name(tmp_path: Path, argument: str) -> None:
    """Before the folder is read: there is no database to be checked."""
    (tmp_path / "file").touch()
    words = f"{CHECKED[argument]}|not a vecdb database"
    case = Case({}, {argument: words})
    check(lambda **named: vecdb.check(tmp_path, **named), case, argument, True)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (None, "host:port"),
        (7801, "host:port"),
        (b"127.0.0.1:7801", "host:port"),
        ("", "host:port"),
        ("localhost", "host:port, as in localhost:7801"),
        (":7801", "host:port"),
        ("localhost:", "host:port"),
        ("localhost:http", "host:port"),
        ("localhost:99999", "with a port of 1 to 65535, got 'localhost:99999'"),
        ("localhost:0", "with a port of 1 to 65535"),
        ("localhost:-1", "host:port"),
        ("localhost:" + "9" * 5000, "port"),
        ("http://localhost:7801", "without http://: localhost:7801"),
        ("https://localhost:7801/", "without https://: localhost:7801"),
        ("grpc://localhost", "without grpc://: localhost:7801"),
        ("localhost:7801/docs", "host:port"),
        ("local host:7801", "host:port"),
        ("localhost:7801\n", "host:port"),
        ("localhost:\u0667", "host:port"),
        ("::1:7801", r"brackets, as in \[::1\]:7801"),
        ("\ud800:1", "host:port"),
        ("a\0b:1", "host:port"),
    ],
)
def test_invalid_address_is_refused_with_the_expected_form(address: Any, said: str) -> None:
    with pytest.raises(vecdb.InvalidArgumentError, match=said) as caught:
        vecdb.connect(address)
    assert caught.value.reason == "BAD_ADDRESS"
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_timeout_of_a_client_is_refused_by_name() -> None:
    def connecting(**options: Any) -> None:
        vecdb.connect("localhost:1", **options).close()

    case = Case({}, {"timeout_s": "timeout_s"}, {"timeout_s": SECONDS})
    check(connecting, case, "timeout_s", False)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:7801", "[::1]:65535", "a-b.c_d:80"])
def test_address_of_host_and_port_is_accepted(address: str) -> None:
    vecdb.connect(address).close()
