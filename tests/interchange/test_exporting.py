"""Exports as a whole: of one seq beside writers, complete or absent, embedded and over gRPC."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import threading
from pathlib import Path
from typing import Any

import faiss
import hnswlib
import numpy as np
import pyarrow.parquet
import pytest

import vecdb
from tests.places import override, value_of
from tests.serving import running_server
from tests.waiting import HANG_S, eventually
from vecdb import export_files
from vecdb.engine.interchange.export import export as exporting
from vecdb.engine.interchange.export.export import ExportRequest, export
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.testing import opened_of, runtime_of
from vecdb.sidecar_header import KEY
from vecdb_cli.command_line import run
from vecdb_client.testing import calls_of
from vecdb_proto import vecdb_pb2 as wire
from vecdb_server.service import Service

DIM = 8


def rows(n: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"data"}


def drafts(folder: Path) -> list[str]:
    # Unlike rglob, walk ignores files that writers remove at the same time.
    names = [name for _, folders, files in os.walk(folder) for name in (*folders, *files)]
    return [name for name in names if name.startswith("export-") or ".partial-" in name]


def test_embedded_and_remote_exports_are_identical(surface: Any, tmp_path: Path) -> None:
    docs = surface.create_collection("docs", DIM, "euclidean")
    docs.upsert_many(
        [f"w{i}" for i in range(1_500)], rows(1_500), [{"at": i} for i in range(1_500)]
    )
    docs.delete(["w3"])
    path = tmp_path / "x.faiss"
    report = docs.export_faiss(path)
    content = path.read_bytes()
    assert (report.path, report.bytes) == (str(path), len(content))
    assert report.sha256 == hashlib.sha256(content).hexdigest()
    assert report.side_path == f"{path}.meta.parquet"
    assert (report.rows, report.seq) == (1_499, docs.stats().seq)
    # The upkeep thread may have flushed some of the rows before.
    assert report.work.startswith(("built a graph of", "merged"))
    table = pyarrow.parquet.read_table(report.side_path).to_pylist()
    index = faiss.read_index(str(path))
    names = faiss.vector_to_array(index.id_map).tolist()
    assert names == [row["faiss_id"] for row in table] == list(range(1_499))
    by_id = dict(zip([f"w{i}" for i in range(1_500)], rows(1_500), strict=True))
    for row in table[::100]:
        vector = index.reconstruct(row["faiss_id"])
        assert vector.tobytes() == by_id[row["id"]].tobytes()
        assert json.loads(row["metadata"]) == {"at": int(row["id"][1:])}
    again = docs.export_faiss(tmp_path / "y.faiss")
    assert (again.sha256, again.work) == (report.sha256, "nothing")
    flat = docs.export_faiss(tmp_path / "flat.faiss", flat=True)
    assert faiss.read_index(flat.path).ntotal == 1_499
    saved = docs.export_hnswlib(tmp_path / "x.hnsw")
    theirs = hnswlib.Index("l2", DIM)
    theirs.load_index(saved.path)
    theirs.set_ef(128)
    found, _ = theirs.knn_query(rows(100)[4:], 1)
    # A client has two batches in flight, and the second may be committed first.
    number_of = {row["id"]: row["faiss_id"] for row in table}
    assert found[:, 0].tolist() == [number_of[f"w{i}"] for i in range(4, 100)]
    theirs.resize_index(2_000)
    theirs.add_items(rows(50, seed=2), np.arange(50) + 10_000)
    # A server may release a lease just after its client has everything; it would last a minute.
    eventually(lambda: docs.stats().oldest_pin_seq is None, "a lease is left")
    assert drafts(tmp_path) == []


@pytest.mark.parametrize(
    ("metric", "n"),
    [("cosine", 0), ("dot", 400), pytest.param("cosine", 400, marks=pytest.mark.slow)],
)
def test_hnswlib_reads_the_export(database: Any, metric: str, n: int, tmp_path: Path) -> None:
    docs = database.create_collection("docs", DIM, metric, M=4)
    if n:
        docs.upsert([str(i + 7) for i in range(n)], rows(n))
    report = docs.export_hnswlib(tmp_path / "x.hnsw")
    theirs = hnswlib.Index("cosine" if metric == "cosine" else "ip", DIM)
    theirs.load_index(report.path)
    assert theirs.get_current_count() == report.rows == n
    if n:
        theirs.set_ef(200)
        found, distances = theirs.knn_query(rows(20, seed=3), 1)
        hits = docs.search(rows(20, seed=3), 1, exact=True)
        agree = [int(h.ids[0]) == each for h, each in zip(hits, found[:, 0].tolist(), strict=True)]
        assert np.mean(agree) > 0.9 and distances.shape == (20, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("indexer", "flat"), [(False, False), (True, False), (False, True)])
def test_export_during_replacements_is_of_one_seq(
    indexer: bool, flat: bool, tmp_path: Path
) -> None:
    """Each batch replaces all rows: an export of two seqs would contain two versions."""
    n, ended = 300, threading.Event()
    with vecdb.open(tmp_path / "data", indexer=indexer, seal_bytes=20_000) as database:
        docs = database.create_collection("docs", DIM, "euclidean")
        ids = list(map(str, range(n)))

        def write() -> None:
            for version in itertools.count(1):
                vectors = np.full((n, DIM), version, np.float32)
                vectors[:, 0] = np.arange(n)
                docs.upsert(ids, vectors, [{"version": version}] * n)
                if ended.wait(0.02):
                    return

        docs.upsert(ids, np.zeros((n, DIM), np.float32), [{"version": 0}] * n)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(2 if flat else 1):
                report = docs.export_faiss(tmp_path / f"{number}.faiss", flat=flat)
                index = faiss.read_index(report.path)
                assert index.ntotal == report.rows == n
                vectors = np.array([index.reconstruct(i) for i in range(n)])
                (version,) = set(vectors[:, 1].tolist())
                table = pyarrow.parquet.read_table(report.side_path).to_pydict()
                assert {json.loads(each)["version"] for each in table["metadata"]} == {version}
                assert report.seq == version + 1
                if version:
                    assert vectors[:, 0].tolist() == list(range(n))
        finally:
            ended.set()
            writer.join(HANG_S)
        assert drafts(tmp_path / "data") == []


def test_existing_file_is_kept_without_overwrite(database: Any, tmp_path: Path) -> None:
    docs = database.create_collection("docs", DIM)
    docs.upsert(["a", "b"], rows(2))
    path = tmp_path / "x.faiss"
    for taken in (path, *export_files.sidecar_paths(path)):
        taken.write_bytes(b"mine")
        with pytest.raises(vecdb.AlreadyExistsError, match=taken.name):
            docs.export_faiss(path, flat=True)
        assert left_in(tmp_path) == {taken.name} and taken.read_bytes() == b"mine"
        taken.unlink()
    _, lines = export_files.sidecar_paths(path)
    for taken in (path, lines):
        taken.write_bytes(b"old")
    docs.export_faiss(path, flat=True, overwrite=True)
    assert faiss.read_index(str(path)).ntotal == 2
    assert left_in(tmp_path) == {"x.faiss", "x.faiss.meta.parquet"}
    with pytest.raises(vecdb.NotFoundError, match="not a folder"):
        docs.export_faiss(tmp_path / "none" / "x.faiss")


HEADER = {
    "metric": "cosine",
    "normalized": True,
    "dim": DIM,
    "M": 16,
    "ef_construction": 128,
    "target_recall": 0.95,
}


def test_sidecar_without_pyarrow_is_json_lines(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = database.create_collection("docs", DIM)
    docs.upsert(["ä", "b\n"], rows(2), [{"x": "ü"}, None])
    monkeypatch.setattr(export_files.importlib.util, "find_spec", lambda name: None)
    report = docs.export_faiss(tmp_path / "x.faiss", flat=True)
    lines = Path(report.side_path).read_text().splitlines()
    assert report.side_path.endswith(".meta.jsonl")
    assert [json.loads(line) for line in lines] == [
        {"faiss_id": 0, "id": "ä", "metadata": '{"x":"ü"}', KEY: HEADER},
        {"faiss_id": 1, "id": "b\n", "metadata": None},
    ]


@pytest.mark.parametrize("damage", ["changed", "cut", "endless"])
def test_damaged_transfer_leaves_no_file(
    database: Any, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = database.create_collection("docs", DIM)
    docs.upsert(["a", "b"], rows(2))
    real = export

    def broken(*arguments: Any) -> Any:
        for piece in real(*arguments):
            if isinstance(piece, bytes):
                yield piece[:-1] + b"?" if damage == "changed" else piece[: len(piece) // 2]
            elif damage != "endless":
                yield piece

    monkeypatch.setattr("vecdb.engine.api.collection.export", broken)
    with pytest.raises(vecdb.DataLossError) as caught:
        docs.export_faiss(tmp_path / "x.faiss", flat=True)
    assert caught.value.reason == ("EXPORT_CUT" if damage == "endless" else "EXPORT_DAMAGED")
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize("array", ["links", pytest.param("vectors", marks=pytest.mark.slow)])
def test_damaged_segment_is_not_exported(array: str, tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data") as database:
        docs = database.create_collection("docs", DIM, "euclidean")
        docs.upsert_many(map(str, range(1_000)), rows(1_000))
        docs.optimize()
        (segment,) = docs.stats().segments  # Replaced segments may not have been removed yet.
        path = opened_of(docs).folder / "segments" / str(segment.number) / f"{array}.npy"
        with path.open("r+b") as file:
            file.seek(200)
            old = file.read(1)
            file.seek(200)
            file.write(bytes([old[0] ^ 4]))
        report = docs.export_faiss(tmp_path / "x.faiss")
        assert report.work != "nothing", "it was built again from the store"
        index = faiss.read_index(report.path)
        vectors = np.array([index.reconstruct(i) for i in range(1_000)])
        assert vectors.tobytes() == rows(1_000).tobytes()


def test_export_larger_than_a_segment_is_refused(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data", segment_bytes_max=100_000) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert_many(map(str, range(2_000)), rows(2_000))
        with pytest.raises(vecdb.ResourceExhaustedError, match=r"2,000 rows.*--flat") as caught:
            docs.export_faiss(tmp_path / "x.faiss")
        assert caught.value.reason == "EXPORT_TOO_LARGE"
        assert docs.export_faiss(tmp_path / "x.faiss", flat=True).rows == 2_000


@pytest.mark.slow
def test_abandoned_export_releases_its_lease(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Abandoned within the first page, within the last page, and at the end with the token."""
    docs = database.create_collection("docs", DIM)
    docs.upsert_many(map(str, range(3_000)), rows(3_000))
    monkeypatch.setattr(exporting, "CHUNK_BYTES", 1_000 * 4 * DIM)
    for kind in ("faiss_flat", "faiss"):
        asked = ExportRequest(kind, chunk_bytes=1_000)  # type: ignore[arg-type]
        *chunks, end = export(runtime_of(database), opened_of(docs), asked, Deadline())
        docs.end_scroll(end.token)
        count = len(chunks) + 1
        assert count > 90 and docs.stats().oldest_pin_seq is None
        for taken in (1, 50, 80, count):
            pieces = export(runtime_of(database), opened_of(docs), asked, Deadline())
            for _ in range(taken):
                piece = next(pieces)
            assert isinstance(piece, bytes) == (taken < count)
            assert docs.stats().oldest_pin_seq is not None
            pieces.close()
            assert docs.stats().oldest_pin_seq is None, taken
    with pytest.raises(vecdb.DeadlineExceededError):
        docs.export_faiss(tmp_path / "x.faiss", timeout_s=1e-6)
    assert left_in(tmp_path) == set() and drafts(tmp_path) == []


def test_cancelled_client_ends_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client disconnects between two chunks, before the rest was sent."""
    calls: list[Any] = []
    real_export, real_chunks = Service.export, value_of("export_chunks")

    def watched(self: Any, request: Any, call: Any) -> Any:
        calls.append(call)
        return real_export(self, request, call)

    def until_it_is_gone(*arguments: Any) -> Any:
        chunks = real_chunks(*arguments)
        yield next(chunks)
        eventually(lambda: not calls[0].is_active())
        yield from chunks

    monkeypatch.setattr(Service, "export", watched)  # Before the server binds it.
    with (
        running_server(tmp_path / "data", indexer=False, message_bytes=64 * 1024) as address,
        vecdb.connect(address) as client,
    ):
        docs = client.create_collection("docs", DIM)
        docs.upsert_many(map(str, range(20_000)), rows(20_000))
        request = wire.ExportRequest(collection="docs", format=wire.EXPORT_FORMAT_FAISS_FLAT)
        with monkeypatch.context() as patched:
            override(patched, "export_chunks", until_it_is_gone)
            answers = calls_of(client).answers("Export", request, None)
            first = next(answers)
            assert 0 < len(first.chunk) < 64 * 1024
            assert docs.stats().oldest_pin_seq is not None
            answers.close()
            eventually(lambda: docs.stats().oldest_pin_seq is None)
        report = docs.export_faiss(tmp_path / "x.faiss", flat=True)
        assert faiss.read_index(report.path).ntotal == 20_000
        with pytest.raises(vecdb.InvalidArgumentError, match="format must be one of") as caught:
            list(calls_of(client).answers("Export", wire.ExportRequest(collection="docs"), 9.0))
        assert caught.value.reason == "BAD_FORMAT"
        gone = wire.ExportRequest(collection="none", format=wire.EXPORT_FORMAT_FAISS)
        with pytest.raises(vecdb.NotFoundError):
            list(calls_of(client).answers("Export", gone, 9.0))


def test_command_line_exports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ids = [*(f"w{i}" for i in range(300)), "ä ö"]
    metadata = [{"at": i, "text": "zwölf"} if i % 2 else None for i in range(301)]
    with vecdb.open("data") as database:
        database.create_collection("docs", DIM).upsert_many(ids, rows(301), metadata)
    folder = ["--data", "data"]
    assert run(["export", "faiss", "docs", "x.faiss", *folder, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {f.name for f in dataclasses.fields(vecdb.ExportReport)} == set(said)
    assert said["rows"] == faiss.read_index("x.faiss").ntotal == 301
    assert run(["export", "faiss", "docs", "x.faiss", *folder]) == 1
    assert "x.faiss already exists" in capsys.readouterr().err
    again = ["export", "faiss", "docs", "x.faiss", *folder, "--flat", "--overwrite"]
    assert run([*again, "--normalize-queries"]) == 0
    assert "graph work   nothing" in capsys.readouterr().out
    assert run(["export", "hnswlib", "docs", "x.hnsw", *folder]) == 0
    assert run(["export", "parquet", "docs", "x.parquet", *folder]) == 0
    table = pyarrow.parquet.read_table("x.parquet").to_pydict()
    assert table["id"] == ids
    assert np.array(table["vector"], np.float32).tobytes() == rows(301).tobytes()
    assert [None if m is None else json.loads(m) for m in table["metadata"]] == metadata
    assert run(["export", "npy", "docs", "x.npy", *folder]) == 0
    assert np.load("x.npy").tobytes() == rows(301).tobytes()
    check_loads_again(ids, metadata)
    with running_server(tmp_path / "data", indexer=False) as address:
        for kind in ("faiss", "hnswlib", "parquet", "npy"):
            assert run(["export", kind, "docs", f"served.{kind}", "--url", address]) == 0
    assert faiss.read_index("served.faiss").ntotal == 301
    assert Path("served.hnswlib").read_bytes() == Path("x.hnsw").read_bytes()
    assert pyarrow.parquet.read_table("served.parquet").to_pydict() == table
    assert np.load("served.npy").tobytes() == rows(301).tobytes()
    odd = "with a\nbreak"
    with vecdb.open("data") as database:
        database.collection("docs").upsert([odd], rows(1))
    assert run(["export", "npy", "docs", "x.npy", *folder, "--overwrite"]) == 0
    assert not Path("x.ids.txt").exists()
    check_loads_again([*ids, odd], [*metadata, None])
    assert run(["export", "npy", "docs", "x.bin", *folder]) == 1
    assert [path for path in Path().iterdir() if "partial" in path.name] == []


def check_loads_again(ids: list[str], metadata: list[Any]) -> None:
    name = f"again-{len(ids)}"
    assert run(["load", "x.npy", name, "--data", "data"]) == 0
    with vecdb.open("data") as database:
        (page,) = database.collection(name).scroll()
        assert page.ids == ids
        assert page.metadata == [each or {} for each in metadata]
        assert page.vectors[:301].tobytes() == rows(301).tobytes()
