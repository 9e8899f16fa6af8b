"""The roles of access tokens, and the role that each rpc requires.

    reader   reads rows and searches
    writer   also writes rows, and the metadata of a collection
    admin    also creates, renames and drops collections, imports files, and writes backups

A role includes those before it. Only the health service is open to callers without a token.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = ["REQUIRED_ROLE", "Role"]


class Role(IntEnum):
    """What a token permits; a greater role permits more."""

    READER = 1
    WRITER = 2
    ADMIN = 3

    @property
    def title(self) -> str:
        """Its name as users write it."""
        return self.name.lower()


REQUIRED_ROLE: Final = {
    **dict.fromkeys(
        (
            *("ServerInfo", "GetCollection", "ListCollections", "Get", "ScrollPage", "EndScroll"),
            *("Count", "ListIds", "Facet", "Fields", "Search", "SearchStream", "Stats", "Export"),
        ),
        Role.READER,
    ),
    **dict.fromkeys(
        ("Upsert", "Delete", "SetMetadata", "SetCollectionMetadata", "Optimize"), Role.WRITER
    ),
    **dict.fromkeys(
        ("CreateCollection", "RenameCollection", "DropCollection", "Import", "Backup"), Role.ADMIN
    ),
}
"""By rpc."""
