"""The file of access tokens, JSON:

    {"tokens": [
      {"name": "shop-search", "role": "reader", "collections": "shop-", "sha256": ["9f86…"]}
    ]}

A token is a random text of 256 bits that is printed once; the file has its SHA-256 only. While a
token is rotated it has two valid texts, so that clients can change from one to the other without a
pause. ``collections`` is a prefix: the token permits the collections whose names begin with it; an
empty prefix permits all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from vecdb.engine.system.files import fsync_folder
from vecdb.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from vecdb.reasons import Reason
from vecdb.row_names import shown
from vecdb_server.access.roles import Role

__all__ = ["Token", "Tokens"]

_PREFIX: Final = "vecdb_"
"""Of every token, so that tools that look for leaked secrets recognise one."""

_SECRET_BYTES: Final = 32
_VALID_MAX: Final = 2
_FILE_BYTES_MAX: Final = 16 * 1024**2
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_COLLECTIONS: Final = re.compile(r"[A-Za-z0-9_-]{0,64}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_FIELDS_SHOWN: Final = "collections, name, role, sha256"
_FIELDS: Final = frozenset({"name", "role", "collections", "sha256"})


@dataclass(frozen=True)
class Token:
    """One entry of the file.

    Attributes:
        name: for the log and for rotation.
        role: what it permits.
        collections: prefix of the names of the collections that it permits.
        hashes: SHA-256 of its valid texts, in hexadecimal, the newest last; one or two.
    """

    name: str
    role: Role
    collections: str
    hashes: tuple[str, ...]


class Tokens:
    """The tokens of a file; immutable, changes return a new object.

    Args:
        tokens: with different names.
    """

    def __init__(self, tokens: tuple[Token, ...] = ()) -> None:
        self.tokens = tokens

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Read a file.

        Raises:
            InvalidArgumentError: BAD_TOKEN_FILE: it cannot be read, or is not such a file.
        """
        try:
            with path.open("rb") as file:
                data = file.read(_FILE_BYTES_MAX + 1)
        except OSError as error:
            raise _bad_file(path, error.strerror or str(error)) from None
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            raise _bad_file(path, "it is not JSON") from None
        entries = found.get("tokens") if isinstance(found, dict) else None
        if not isinstance(entries, list):
            raise _bad_file(path, 'it must be {"tokens": [...]}')
        tokens = tuple(_token_of(path, at, each) for at, each in enumerate(entries))
        _check_unique(path, "name", [token.name for token in tokens])
        _check_unique(path, "sha256", [each for token in tokens for each in token.hashes])
        return cls(tokens)

    def write(self, path: Path) -> None:
        """Write a file, whole or not at all. It keeps owner and mode; a new one gets mode 0600.

        Raises:
            OSError: among others, it belongs to another user.
        """
        path = path.resolve()  # A link stays one.
        entries = [
            {
                "name": each.name,
                "role": each.role.title,
                "collections": each.collections,
                "sha256": list(each.hashes),
            }
            for each in self.tokens
        ]
        text = json.dumps({"tokens": entries}, indent=2) + "\n"
        before = path.stat() if path.exists() else None
        mode = 0o600 if before is None else before.st_mode & 0o777
        new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            with open(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "w") as file:
                file.write(text)
                file.flush()
                if before is not None:
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        fsync_folder(path.parent)

    @staticmethod
    @contextlib.contextmanager
    def changing(path: Path) -> Iterator[None]:
        """Within the block no other process is in one for a file of the same folder."""
        folder = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def find(self, text: str) -> Token | None:
        """Return the token with a valid text, in a time that does not tell how much of it fits."""
        own, found = _hash_of(text), None
        for token in self.tokens:
            for valid in token.hashes:
                if hmac.compare_digest(valid, own):
                    found = token
        return found

    def create(self, name: str, role: Role, collections: str) -> tuple[Tokens, str]:
        """Add a token; return the new tokens and its text.

        Raises:
            AlreadyExistsError: the name is taken.
            InvalidArgumentError: BAD_NAME.
        """
        if _NAME.fullmatch(name) is None:
            raise InvalidArgumentError(
                f"the name of a token matches {_NAME.pattern}, got {shown(name)}", Reason.BAD_NAME
            )
        if _COLLECTIONS.fullmatch(collections) is None:
            raise InvalidArgumentError(
                f"no name of a collection begins with {shown(collections)}", Reason.BAD_NAME
            )
        if any(each.name == name for each in self.tokens):
            raise AlreadyExistsError(
                f"there is a token {name}; rotate it, or choose another name", Reason.NAME_TAKEN
            )
        text = _new_text()
        added = Token(name, role, collections, (_hash_of(text),))
        return Tokens((*self.tokens, added)), text

    def rotate(self, name: str) -> tuple[Tokens, str]:
        """Give a token a new text; the last one stays valid, older ones do not."""
        token, text = self._named(name), _new_text()
        hashes = (*token.hashes, _hash_of(text))[-_VALID_MAX:]
        return self._with(replace(token, hashes=hashes)), text

    def retire(self, name: str) -> Tokens:
        """End a rotation: only the newest text of a token stays valid."""
        token = self._named(name)
        return self._with(replace(token, hashes=token.hashes[-1:]))

    def remove(self, name: str) -> Tokens:
        """Remove a token."""
        gone = self._named(name)
        return Tokens(tuple(each for each in self.tokens if each is not gone))

    def _named(self, name: str) -> Token:
        for token in self.tokens:
            if token.name == name:
                return token
        raise NotFoundError(f"there is no token {shown(name)}")

    def _with(self, changed: Token) -> Tokens:
        return Tokens(tuple(changed if t.name == changed.name else t for t in self.tokens))


def _token_of(path: Path, at: int, entry: Any) -> Token:
    place = f"tokens[{at}]"
    if not isinstance(entry, dict) or set(entry) != _FIELDS:
        raise _bad_file(path, f"{place} must have the fields {_FIELDS_SHOWN}")
    name, role = entry.get("name"), entry.get("role")
    collections, hashes = entry.get("collections"), entry.get("sha256")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise _bad_file(path, f"{place}.name does not match {_NAME.pattern}")
    if role not in [each.title for each in Role]:
        raise _bad_file(path, f"{place}.role is none of reader, writer, admin")
    if not isinstance(collections, str) or _COLLECTIONS.fullmatch(collections) is None:
        raise _bad_file(path, f"{place}.collections is not the beginning of a name")
    if (
        not isinstance(hashes, list)
        or not 1 <= len(hashes) <= _VALID_MAX
        or not all(isinstance(each, str) and _HASH.fullmatch(each) for each in hashes)
    ):
        raise _bad_file(path, f"{place}.sha256 must be one or two SHA-256 in hexadecimal")
    return Token(name, Role[role.upper()], collections, tuple(hashes))


def _check_unique(path: Path, field: str, values: list[str]) -> None:
    if len(set(values)) < len(values):
        repeated = next(each for at, each in enumerate(values) if each in values[:at])
        raise _bad_file(path, f"duplicate {field} {repeated}")


def _new_text() -> str:
    return _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def _hash_of(text: str) -> str:
    # A text has 256 random bits, so nobody can guess it from a fast hash.
    return hashlib.sha256(os.fsencode(text)).hexdigest()


def _bad_file(path: Path, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"the token file {path}: {why}", Reason.BAD_TOKEN_FILE)
