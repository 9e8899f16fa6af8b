"""The entry of a collection in the catalogue."""

from __future__ import annotations

import json
from typing import TypedDict, cast

from vecdb.engine.store import layout
from vecdb.types import CollectionConfig, CollectionDescription

__all__ = ["CatalogEntry", "description_of", "new_entry", "unpacked_entry"]


class _CatalogEntry(TypedDict):
    id: str
    dim: int
    metric: str
    M: int
    ef_construction: int
    state: str


class CatalogEntry(_CatalogEntry, total=False):
    """The JSON object of a collection; state: "creating", "ready" or "dropping". metadata: of the
    collection, as JSON text, so that numbers keep their digits; missing if there are none.
    index_fields: as in the store; missing if all fields are indexed."""

    index_fields: list[str]
    metadata: str


def new_entry(
    collection_id: str, config: CollectionConfig, state: str, metadata: bytes = b""
) -> CatalogEntry:
    """Return the entry of a collection. metadata: JSON of an object, or empty."""
    entry = {**layout.config_entry(collection_id, config), "state": state}
    if metadata:
        entry["metadata"] = metadata.decode()
    return cast("CatalogEntry", entry)


def description_of(name: str, entry: CatalogEntry) -> CollectionDescription:
    """Return the description of a collection."""
    text = entry.get("metadata")
    return CollectionDescription(name, layout.config_of(entry), json.loads(text) if text else {})


def unpacked_entry(key: bytes | memoryview, value: memoryview) -> CatalogEntry:
    """Return the entry of a stored value. Raises as ``layout.unpack_value``."""
    return cast("CatalogEntry", layout.unpack_json(key, value, "catalogue entry"))
