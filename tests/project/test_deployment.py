"""The files for systemd, Docker and Kubernetes name nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from vecdb_cli.command_line import app

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "server/deploy").iterdir())


def options_of_serve() -> set[str]:
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return {option for parameter in command.params for option in parameter.opts}


def test_options_of_the_server_exist() -> None:
    used = 0
    for path in FILES:
        # From the program on, or as arguments of a container; "--read-only" is docker's.
        for line in path.read_text().splitlines():
            served = re.search(
                r"vecdb serve|^ENTRYPOINT|^CMD|^\s+- --|VECDB_ARGS=--|^#\s+--tls", line
            )
            found = set(re.findall(r"--[a-z][a-z-]+", line)) if served else set()
            assert found <= options_of_serve(), (path.name, line)
            used += len(found)
    assert used >= 10


def test_pages_and_ports_of_probes_exist() -> None:
    texts = {path.name: path.read_text() for path in FILES}
    assert set(texts) == {"Dockerfile", "kubernetes.yaml", "vecdb.service"}
    endpoint = (ROOT / "server/vecdb_server/metrics/endpoint.py").read_text()
    for text in texts.values():
        for page in re.findall(r"/(?:readyz|healthz)", text):
            assert f'"{page}"' in endpoint
    for name in ("Dockerfile", "kubernetes.yaml"):
        assert "7801" in texts[name] and "9464" in texts[name]
    # What the image copies is there, and all that the wheel is made of.
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", texts["Dockerfile"], re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert all((ROOT / name).exists() for name in names)
    packages = re.search(r"packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    assert packages is not None
    assert {each.split("/")[0] for each in re.findall(r'"(.+?)"', packages[1])} <= names
