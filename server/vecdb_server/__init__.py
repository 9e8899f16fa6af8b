"""The gRPC server of vecdb: it checks, calls the engine and translates, no more.

service        the rpcs, one method each: messages in, messages out, independent of gRPC
translation    messages to types of the vocabulary and back, and the only table of errors
rpcs           one rpc: bytes in, bytes or an error out; who may call it
transport      gRPC around the rpcs: messages, limits, errors to statuses
process        the lifecycle of a server: bind, open, compile, ready, drain, stop
signals        SIGTERM, SIGINT and SIGHUP
access         package: who may call the server, over which addresses
metrics        package: what monitoring sees
admission      limits of open calls, slow messages, workers and slots
call_threads   one thread per call
health         grpc.health.v1.Health
log            one line per event
backup_folder  the folder for backups that callers request
testing        access for tests to internals
"""

from __future__ import annotations

import os

__all__: list[str] = []

# Read when grpc is imported. By default gRPC's core logs to stderr, and includes text from its
# peers unescaped, with line ends.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
