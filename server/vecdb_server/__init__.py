"""The gRPC server of vecdb: it checks, calls the engine and translates, no more.

service       the calls, each in one method: messages in, messages out; knows nothing of gRPC
translation   messages to the vocabulary and back, and the one table of errors
transport     gRPC around the service: bytes, states of the server, caps, the errors' way out
process       the server's life: bind, open, compile, ready, drain, stop
log           one line an event
"""

from __future__ import annotations

__all__: list[str] = []
