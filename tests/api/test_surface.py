"""What is public: the same in the engine and in the client, and no more than is listed."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import vecdb
from vecdb import limits
from vecdb.engine.api.collection import Collection as EngineCollection
from vecdb.engine.api.database import Database
from vecdb_client import Client
from vecdb_client import Collection as ClientCollection


def public(cls: type) -> dict[str, Any]:
    return {
        name: member
        for name, member in inspect.getmembers(cls)
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    }


@pytest.mark.parametrize(
    ("engine", "client", "engine_only"),
    [
        (
            Database,
            Client,
            {"check_usable", "options", "path"},
        ),
        (
            EngineCollection,
            ClientCollection,
            {"collection_id"},
        ),
    ],
)
def test_engine_and_client_have_one_surface(
    engine: type, client: type, engine_only: set[str]
) -> None:
    ours, theirs = public(engine), public(client)
    assert set(ours) - engine_only == set(theirs)
    for name, member in theirs.items():
        if isinstance(member, property):
            assert isinstance(ours[name], property)
            continue
        mine, other = inspect.signature(ours[name]), inspect.signature(member)
        assert [(p.name, p.kind, p.default) for p in mine.parameters.values()] == [
            (p.name, p.kind, p.default) for p in other.parameters.values()
        ], name


def test_package_exports_its_all_list() -> None:
    for name in vecdb.__all__:
        assert hasattr(vecdb, name), name
    public_names = {n for n in vars(vecdb) if not n.startswith("_")}
    modules = {"annotations", "importlib", "os", "Any", "Callable", "TYPE_CHECKING"}
    submodules = {
        "batching",
        "checking",
        "checks",
        "collection_stats",
        "engine",
        "errors",
        "export_files",
        "facet_types",
        "filter_canonical",
        "filter_limits",
        "filter_hints",
        "filter_nodes",
        "filter_predicates",
        "filter_shortcuts",
        "filters",
        "import_files",
        "index_fields",
        "indexer",
        "json_objects",
        "limits",
        "metadata_checks",
        "metadata_patches",
        "one_line",
        "os_errors",
        "reasons",
        "row_names",
        "scalar_checks",
        "scrolling",
        "search_types",
        "search_variants",
        "sidecar_header",
        "surface",
        "types",
        "vector_arrays",
        "write_checks",
    }
    assert public_names - modules - submodules == set(vecdb.__all__) - {"__version__"}


def test_limits_are_consistent() -> None:
    for name in limits.__all__:
        limit = getattr(limits, name)
        if isinstance(limit, limits.Limit):
            assert limit.minimum <= (limit.default or limit.minimum) <= limit.maximum, name
