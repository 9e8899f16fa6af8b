"""``vecdb tokens``, and commands that give a token."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving import running_server
from vecdb_cli.command_line import run
from vecdb_server.access.tokens import Tokens


def text_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The first line that a command prints."""
    assert run(list(arguments)) == 0
    return capsys.readouterr().out.partition("\n")[0]


def test_tokens_made_by_commands_are_valid_until_they_are_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tokens.json"
    where = ["--file", str(file)]
    admin = text_of(capsys, "tokens", "create", "ops", "--role", "admin", *where)
    reader = text_of(
        capsys, "tokens", "create", "shop", "--role", "reader", "--collections", "shop-", *where
    )
    assert run(["tokens", "list", *where]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1:] == [["ops", "admin", "all", "1"], ["shop", "reader", "shop-…", "1"]]
    rotated = text_of(capsys, "tokens", "rotate", "shop", *where)
    with running_server(tmp_path / "data", indexer=False, tokens=file) as address:
        url = ["--url", address]
        secret = tmp_path / "secret"
        secret.write_text(f"{admin}\n")
        given = ["--token-file", str(secret)]
        assert run([*given, "create", "shop-1", "--dim", "2", *url]) == 0
        assert run([*given, "create", "other", "--dim", "2", *url]) == 0
        assert run(["stats", *url]) == 1
        assert "asks for an access token" in capsys.readouterr().err
        for text in (reader, rotated):
            monkeypatch.setenv("VECDB_TOKEN", text)
            assert run(["count", "shop-1", *url]) == 0
            assert run(["count", "other", *url]) == 1
            assert "shop- only" in capsys.readouterr().err
        assert run(["drop", "shop-1", "--yes", *url]) == 1
    assert run(["tokens", "retire", "shop", *where]) == 0
    assert Tokens.read(file).find(reader) is None
    assert run(["tokens", "remove", "shop", *where]) == 0
    assert Tokens.read(file).find(rotated) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "ops", "--role", "root"],
        ["create", "o p s", "--role", "admin"],
        *(["rotate", "ops"], ["retire", "ops"], ["remove", "ops"]),
    ],
)
def test_errors_leave_the_file_as_it_is(tmp_path: Path, arguments: list[str]) -> None:
    file = tmp_path / "tokens.json"
    Tokens().write(file)
    before = file.read_bytes()
    assert run(["tokens", *arguments, "--file", str(file)]) == 1
    assert file.read_bytes() == before


def test_half_of_the_files_of_tls_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in (["--tls-cert", "a.pem"], ["--tls-key", "a.pem"], ["--tls-client-ca", "a.pem"]):
        assert run(["serve", "--data", str(tmp_path / "data"), *given]) == 1
        assert "--tls-cert and --tls-key" in capsys.readouterr().err
    # Options of the client, before the name of the command, are not those of the server.
    assert run(["--tls-cert", "a.pem", "serve", "--data", str(tmp_path / "data")]) == 1
    assert "before the command" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
