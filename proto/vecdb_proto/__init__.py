"""The wire contract of vecdb: ``vecdb.proto``, the code generated from it, and the matrix codec.

    vecdb.proto           the contract; every message and error is explained there
    vecdb_pb2, _pb2_grpc  generated and committed; written by ``python -m vecdb_proto.generate``
    codec                 vectors and float columns to and from bytes

Nothing is imported here, so that the codec's users don't pay for the service's stubs.
"""

from __future__ import annotations

__all__ = ["codec", "vecdb_pb2", "vecdb_pb2_grpc"]
