"""The gRPC server of vecdb: it checks, calls the engine and translates, no more.

service       the calls, each in one method: messages in, messages out; knows nothing of gRPC
translation   messages to the vocabulary and back, and the one table of errors
transport     gRPC around the service: bytes, states of the server, caps, the errors' way out
process       the server's life: bind, open, compile, ready, drain, stop
admission     who comes in: open calls, messages on their way, workers, places
call_threads  a thread for each call
health        grpc.health.v1.Health
log           one line an event
"""

from __future__ import annotations

import os

__all__: list[str] = []

# Read when grpc is imported. By itself its core writes notes to stderr, with what its peers say in
# them as it is, line ends too.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
