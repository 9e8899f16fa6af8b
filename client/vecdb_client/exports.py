"""The stream of an export: the server's chunks as bytes, and its end."""

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
    """What ``vecdb.export_files.save_export`` begins with; closing it cancels the call.

    Args:
        timeout_s: seconds for all of the stream, None for no end.
    """
    for response in calls.answers("Export", request, timeout_s):
        if response.HasField("end"):
            yield translation.export_end_of(response.end)
            return
        yield response.chunk
