"""The public surface: the interface of embedded and remote databases, as typed protocols.

``vecdb.engine.api`` implements it in this process, ``vecdb_client`` over gRPC. Both inherit these
docstrings; paragraphs that begin with "Remote:" hold for the client only. Every remote call may
also raise UnavailableError (no connection, or the server is starting or stopping) and
DeadlineExceededError.

arguments    the types of arguments
collection   methods of a collection
listing      methods of a collection that list and count rows
writing      methods of a collection that write rows
database     methods of a database
searching    the method ``search`` of a collection
"""

from __future__ import annotations

from vecdb.surface.collection import CollectionSurface
from vecdb.surface.database import DatabaseSurface

__all__ = ["CollectionSurface", "DatabaseSurface"]
