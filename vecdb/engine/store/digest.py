"""The digest of a batch: what makes a write the same as an earlier one under its request id.

It is the SHA-256 of these fields in this order; numbers little-endian. Never change it: requests
are stored with their digests.

    head       6 bytes kind, u8 on_existing (0 replace, 1 refuse, 2 skip), u8 1 if if_seq is set,
               u64 if_seq (else 0), u32 number of ids, u8 1 if any of them has metadata
    ids        u32 length of each, then all ids
    vectors    float32, as given (upserts only)
    metadata   if any: u32 length of each, then all metadata

    kind       ids                               metadata
    upsert     as given                          of each row
    delete     distinct and ascending            none
    patch      as given                          the mode, then the patches
    delwhe     the key of the filter, the limit  none
    patwhe     the key of the filter, the limit  the mode, then the patch

Kinds are padded with zeros. The limit is decimal text, empty for none.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["batch_digest"]

_DIGEST_HEAD = struct.Struct("<6sBBQIB")


def batch_digest(
    kind: bytes,
    ids: Sequence[bytes],
    vectors: npt.NDArray[np.float32] | None,
    metadata: Sequence[bytes] | None,
    on_existing: int,
    if_seq: int | None,
) -> bytes:
    """Return the SHA-256 of a batch: equal batches have equal digests, embedded or remote."""
    has_metadata = metadata is not None and any(metadata)
    head = _DIGEST_HEAD.pack(
        kind, on_existing, if_seq is not None, if_seq or 0, len(ids), has_metadata
    )
    digest = hashlib.sha256(head)
    _digest_texts(digest, ids)
    if vectors is not None:
        digest.update(np.ascontiguousarray(vectors, "<f4").reshape(-1).data)
    if metadata is not None and has_metadata:
        _digest_texts(digest, metadata)
    return digest.digest()


def _digest_texts(digest: hashlib._Hash, texts: Sequence[bytes]) -> None:
    digest.update(np.fromiter(map(len, texts), "<u4", len(texts)).data)
    digest.update(b"".join(texts))
