"""The stream of an export: the server's chunks as bytes, then the trailer."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from vecdb.types import ExportEnd
from vecdb_client import translation
from vecdb_proto import vecdb_pb2 as wire

if TYPE_CHECKING:
    from vecdb_client.calls import Calls

__all__ = ["export_stream"]


def export_stream(
    calls: Calls, request: wire.ExportRequest, timeout_s: float | None
) -> Generator[bytes | ExportEnd, None, None]:
    """Yield the chunks and the trailer of an export, for ``vecdb.export_files.save_export``.
    Closing the generator cancels the call.

    Args:
        calls: the client's calls.
        request: the request of the export.
        timeout_s: timeout of the whole stream in seconds; None for none.
    """
    for response in calls.answers("Export", request, timeout_s):
        if response.HasField("end"):
            yield translation.export_end_of(response.end)
            return
        yield response.chunk
