"""The token that continues a scroll. Clients return it unchanged; it is not stored.

u8 version (1), 16 bytes lease id, u64 seq, u64 next row, collection id, then a CRC-32, all in
URL-safe base64
"""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Final, NamedTuple

from vecdb.engine.store import layout
from vecdb.errors import DataLossError

__all__ = ["ScrollToken", "pack_token", "unpack_token"]

_TOKEN: Final = struct.Struct("<B16sQQ")
_TOKEN_VERSION: Final = 1


class ScrollToken(NamedTuple):
    """The position of a scroll: its lease and seq, the next row, and its collection."""

    lease_id: bytes
    seq: int
    row: int
    collection_id: str


def pack_token(token: ScrollToken) -> str:
    """Return a token as opaque text."""
    payload = _TOKEN.pack(_TOKEN_VERSION, token.lease_id, token.seq, token.row)
    raw = layout.pack_value(b"", payload + token.collection_id.encode())
    return base64.urlsafe_b64encode(raw).decode()


def unpack_token(text: str) -> ScrollToken | None:
    """Return the token of ``pack_token``; None if the text is not one."""
    try:
        raw = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
        payload = bytes(layout.unpack_value(b"", raw, "token"))
        version, lease_id, seq, row = _TOKEN.unpack_from(payload)
        collection_id = payload[_TOKEN.size :].decode()
    except (UnicodeError, binascii.Error, struct.error, DataLossError):
        return None
    return ScrollToken(lease_id, seq, row, collection_id) if version == _TOKEN_VERSION else None
