"""The file of access tokens: what it holds, how it changes, what is refused."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import vecdb
from vecdb_server.access.roles import Role
from vecdb_server.access.tokens import Tokens

HASH = "0" * 64
ENTRY: dict[str, Any] = {"name": "a", "role": "reader", "collections": "", "sha256": [HASH]}


def test_text_is_not_in_the_file_and_finds_its_token(
    tokens: Path, new_token: Callable[..., str]
) -> None:
    texts = [new_token("search", Role.READER, "shop-"), new_token("ops", Role.ADMIN)]
    assert all(len(text) > 40 and text not in tokens.read_text() for text in texts)
    read = Tokens.read(tokens)
    found = read.find(texts[0])
    assert found is not None
    assert (found.name, found.role, found.collections) == ("search", Role.READER, "shop-")
    assert read.find(texts[1]) == read.tokens[1]
    assert read.find(texts[0] + "x") is read.find("") is read.find("\udcff") is None
    assert stat.S_IMODE(tokens.stat().st_mode) == 0o600
    assert [path.name for path in tokens.parent.iterdir()] == [tokens.name]


def test_rotation_keeps_two_texts_valid() -> None:
    first, texts = Tokens().create("a", Role.WRITER, "")[0], []
    second, text = first.rotate("a")
    texts.append(text)
    third, text = second.rotate("a")
    texts.append(text)
    assert all(third.find(text) is not None for text in texts)
    fourth, text = third.rotate("a")
    assert fourth.find(texts[0]) is None
    assert fourth.find(texts[1]) is not None and fourth.find(text) is not None
    retired = fourth.retire("a")
    assert retired.find(texts[1]) is None and retired.find(text) is not None
    assert retired.remove("a").find(text) is None


def test_mode_of_a_file_is_kept(tokens: Path) -> None:
    tokens.chmod(0o640)
    Tokens.read(tokens).create("a", Role.READER, "")[0].write(tokens)
    assert stat.S_IMODE(tokens.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", '{"tokens'),
        ('{"tokens": {}}', '{"tokens'),
        (json.dumps({"tokens": [ENTRY, {**ENTRY, "role": "reader"}]}), "duplicate name a"),
        (json.dumps({"tokens": [ENTRY, {**ENTRY, "name": "b"}]}), "duplicate sha256 0000"),
        ('{"tokens": [{"name": "a", "role": "reader", "sha256": []}]}', "the fields"),
        *(
            (json.dumps({"tokens": [{**ENTRY, **change}]}), rf"tokens\[0\]{place}")
            for change, place in [
                ({"more": 1}, " must have the fields"),
                ({"name": "a b"}, ".name"),
                ({"name": None}, ".name"),
                ({"role": "root"}, ".role"),
                ({"role": []}, ".role"),
                ({"collections": 1}, ".collections"),
                ({"collections": "a/b"}, ".collections"),
                ({"sha256": HASH}, ".sha256"),
                ({"sha256": []}, ".sha256"),
                ({"sha256": [HASH] * 3}, ".sha256"),
                ({"sha256": [HASH[1:]]}, ".sha256"),
                ({"sha256": [HASH[1:] + "A"]}, ".sha256"),
            ]
        ),
    ],
)
def test_bad_file_is_refused(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(content)
    with pytest.raises(vecdb.InvalidArgumentError, match=why) as caught:
        Tokens.read(path)
    assert caught.value.reason == "BAD_TOKEN_FILE"


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(vecdb.InvalidArgumentError, match="No such file"):
        Tokens.read(tmp_path / "tokens.json")


def test_changes_of_several_processes_are_all_kept(tokens: Path) -> None:
    def create(number: int) -> str:
        with Tokens.changing(tokens):
            after, text = Tokens.read(tokens).create(f"t-{number}", Role.READER, "")
            after.write(tokens)
        return text

    # A lock of flock is of an open file, so threads stand for processes.
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(create, range(40)))
    read = Tokens.read(tokens)
    assert all(read.find(text) is not None for text in texts)


def test_link_and_owner_are_kept(tmp_path: Path, tokens: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(tokens)
    if os.getuid() == 0:
        os.chown(tokens, 12_345, 23_456)
    before = tokens.stat()
    after, text = Tokens.read(link).create("a", Role.READER, "")
    after.write(link)
    assert link.is_symlink() and Tokens.read(tokens).find(text) is not None
    status = tokens.stat()
    assert (status.st_uid, status.st_gid) == (before.st_uid, before.st_gid)


def test_bad_names_are_refused() -> None:
    made, _ = Tokens().create("a", Role.READER, "")
    with pytest.raises(vecdb.AlreadyExistsError):
        made.create("a", Role.READER, "")
    for name, prefix in [("", ""), ("a b", ""), ("b", "é"), ("b", "a" * 65)]:
        with pytest.raises(vecdb.InvalidArgumentError):
            made.create(name, Role.READER, prefix)
    for change in (made.rotate, made.retire, made.remove):
        with pytest.raises(vecdb.NotFoundError):
            change("b")
