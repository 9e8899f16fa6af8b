"""The access token of a call, what it permits, and the audit log.

A caller sends its token in the metadata of each call, ``authorization: Bearer TOKEN``. Without a
file of tokens everyone may do everything, which is for loopback addresses and socket files.

With such a file, refused calls, and calls that need the role admin, are logged in one line each,
with the name of the token and never its text.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from vecdb.errors import PermissionDeniedError, UnauthenticatedError, VecdbError
from vecdb.reasons import Reason
from vecdb_server import log
from vecdb_server.access.roles import REQUIRED_ROLE, Role
from vecdb_server.access.tokens import Tokens

__all__ = ["EVERYONE", "Access", "Audit", "Caller"]

_HEADER: Final = "authorization"
_SCHEME: Final = "bearer "
_REFUSED_MAX: Final = 20
"""Maximum of lines about refused calls, a second."""


@dataclass(frozen=True)
class Caller:
    """What a caller is and may do.

    Attributes:
        name: of its token; empty without tokens.
        role: what it permits.
        collections: prefix of the names of the collections that it permits.
    """

    name: str
    role: Role
    collections: str

    def permits(self, collection: str) -> bool:
        """Return whether the caller may use a collection of this name."""
        return collection.startswith(self.collections)

    def check_collection(self, collection: str) -> None:
        """Check that the caller may use a collection of this name, whether it exists or not.

        Raises:
            PermissionDeniedError: SCOPE.
        """
        if not self.permits(collection):
            raise PermissionDeniedError(
                f"the token {self.name} permits collections whose names begin with "
                f"{self.collections} only",
                Reason.SCOPE,
            )

    def check_all_collections(self) -> None:
        """Check that the caller may use every collection.

        Raises:
            PermissionDeniedError: SCOPE.
        """
        self.check_collection("")


EVERYONE: Final = Caller("", Role.ADMIN, "")


class Access:
    """Decides about calls. Thread-safe.

    Attributes:
        audit: the log of refused and of admin calls.

    Args:
        path: the file of tokens; None: everyone may do everything.

    Raises:
        InvalidArgumentError: BAD_TOKEN_FILE.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._tokens = None if path is None else Tokens.read(path)
        self.audit = Audit()

    def reload(self) -> None:
        """Read the file again. From then on each call, and each search of an open stream, needs a
        token of the new file.

        Raises:
            InvalidArgumentError: BAD_TOKEN_FILE; nothing has changed.
        """
        if self._path is not None:
            self._tokens = Tokens.read(self._path)

    def caller(self, rpc: str, context: grpc.ServicerContext) -> Caller:
        """Return who makes a call of an rpc.

        Raises:
            UnauthenticatedError: NO_TOKEN or UNKNOWN_TOKEN.
            PermissionDeniedError: ROLE.
        """
        tokens = self._tokens
        if tokens is None:
            return EVERYONE
        name = ""
        try:
            text = _token_of(context)
            token = tokens.find(text)
            if token is None:
                raise UnauthenticatedError(
                    "the access token is unknown, or no longer valid", Reason.UNKNOWN_TOKEN
                )
            name = token.name
            if token.role < REQUIRED_ROLE[rpc]:
                raise PermissionDeniedError(
                    f"{rpc} needs a token with the role {REQUIRED_ROLE[rpc].title}; {name} has "
                    f"{token.role.title}",
                    Reason.ROLE,
                )
        except VecdbError as error:
            self.audit.refused(rpc, name, error, context)
            raise
        return Caller(name, token.role, token.collections)


class Audit:
    """The lines of the log about refused calls, and about calls that need the role admin.

    Of refused calls at most ``_REFUSED_MAX`` a second are logged, and how many more there were, so
    that a caller without a token cannot fill the disk. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._second, self._count = 0, 0

    def refused(
        self,
        rpc: str,
        name: str,
        error: VecdbError,
        context: grpc.ServicerContext,
        collections: Iterable[str] = (),
    ) -> None:
        """Log a call that was refused. collections: the names in the request, if it was read."""
        left_out = self._taken()
        if left_out is None:
            return
        if left_out:
            log.event("denied", logging.WARNING, more=left_out)
        log.event(
            "denied",
            logging.WARNING,
            call=rpc,
            token=name or "-",
            reason=error.reason,
            **_named(collections),
            peer=context.peer(),
        )

    def ended(
        self,
        rpc: str,
        caller: Caller,
        outcome: str,
        context: grpc.ServicerContext,
        collections: Iterable[str],
    ) -> None:
        """Log a call of a token that needs the role admin, after its end."""
        if REQUIRED_ROLE[rpc] is Role.ADMIN and caller is not EVERYONE:
            named = _named(collections)
            peer = context.peer()
            log.event("admin", call=rpc, token=caller.name, outcome=outcome, **named, peer=peer)

    def _taken(self) -> int | None:
        """Return how many lines were left out in an earlier second; None to leave out this one."""
        with self._lock:
            second, before = int(time.monotonic()), 0
            if second != self._second:
                before = max(0, self._count - _REFUSED_MAX)
                self._second, self._count = second, 0
            self._count += 1
            return before if self._count <= _REFUSED_MAX else None


def _named(collections: Iterable[str]) -> dict[str, str]:
    names = ",".join(collections)
    return {"collection": names} if names else {}


def _token_of(context: grpc.ServicerContext) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == _HEADER:
            text = value if isinstance(value, str) else value.decode("latin-1")
            if text[: len(_SCHEME)].lower() == _SCHEME:
                return text[len(_SCHEME) :].strip()
    raise UnauthenticatedError(
        "the server asks for an access token: vecdb.connect(..., token=...), or the metadata "
        "'authorization: Bearer TOKEN'",
        Reason.NO_TOKEN,
    )
