"""Data sets of the benchmark suite: truth, held-out queries, repeatability, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.places import override
from vecdb.errors import InvalidArgumentError, NotFoundError
from vecdb_bench.data import truth
from vecdb_bench.data.dataset import cache_folder, prepare


def vectors(rows: int, dim: int = 12) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, dim), dtype=np.float32)


def spoiled(number: float) -> np.ndarray:
    """A matrix with one number that is none, or none of a float32."""
    matrix = vectors(300).astype(np.float64)
    matrix[7, 3] = number
    return matrix


@pytest.mark.parametrize("metric", truth.METRICS)
def test_true_neighbours_are_those_of_all_pairs(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "truth_block_bytes", 4 * 400 * 7)
    base, queries = vectors(400), vectors(20)
    rows, distances = truth.true_neighbours(base, queries, metric, 10)
    wide, asked = base.astype(np.float64), queries.astype(np.float64)
    if metric == "euclidean":
        every = np.linalg.norm(wide[None] - asked[:, None], axis=2)
    else:
        every = -(asked @ wide.T)
        if metric == "cosine":
            every /= np.linalg.norm(wide, axis=1) * np.linalg.norm(asked, axis=1)[:, None]
            every += 1
    expected = np.argsort(every, axis=1, kind="stable")[:, :10]
    assert (rows == expected).all()
    assert distances == pytest.approx(np.take_along_axis(every, expected, 1), abs=1e-12)
    assert truth.recall(rows, base, queries, metric, distances, 10).tolist() == [1.0] * 20


def test_recall_counts_ties_once_and_nothing_else() -> None:
    base = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)  # Rows 0, 1, 2 are equal, and so on.
    queries = np.eye(4, dtype=np.float32)[:1]
    _, distances = truth.true_neighbours(base, queries, "cosine", 2)

    def recall(*found: int) -> float:
        return truth.recall(np.array([found]), base, queries, "cosine", distances, 2)[0]

    assert recall(0, 1) == recall(2, 1) == 1.0
    assert recall(1, 1) == recall(1, -1) == recall(1, 5) == recall(1, 99) == 0.5
    assert recall(4, 5) == recall(-1, -1) == 0.0


def test_queries_are_held_out_and_the_same_name_gives_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "all.npy"
    matrix = vectors(500)
    matrix[1] = matrix[0]  # A held-out query may have a duplicate.
    np.save(file, matrix)
    made = [prepare(f"{file}:300@euclidean", tmp_path / name, queries=50) for name in "ab"]
    assert made[0].base.shape == (300, 12) and made[0].queries.shape == (50, 12)
    assert made[0].metric == "euclidean" and made[0].neighbours.shape == (50, 100)
    base = {row.tobytes() for row in made[0].base}
    assert not base & {row.tobytes() for row in made[0].queries}
    assert (made[0].base == matrix[np.load(made[0].folder / "rows.npy")]).all()
    assert made[0].manifest == made[1].manifest
    for name in ("base.npy", "queries.npy", "neighbours.npy", "distances.npy", "manifest.json"):
        assert (made[0].folder / name).read_bytes() == (made[1].folder / name).read_bytes()
    manifest = json.loads((made[0].folder / "manifest.json").read_text())
    assert manifest["seed"] and len(manifest["sha256"]["base.npy"]) == 64
    assert made[0].recall(made[0].neighbours, 10) == 1.0
    assert made[0].recall(made[0].neighbours[:, 90:], 10) == 0.0
    # Prepared once: the source need not be read again, and other queries are another data set.
    before = made[0].folder.stat().st_mtime_ns
    assert prepare(f"{file}:300@euclidean", tmp_path / "a", queries=50).folder == made[0].folder
    assert made[0].folder.stat().st_mtime_ns == before
    assert prepare(f"{file}:300", tmp_path / "a", queries=50).folder != made[0].folder


def test_a_pair_of_files(tmp_path: Path) -> None:
    np.save(tmp_path / "base.npy", vectors(200))
    np.save(tmp_path / "ask.npy", vectors(7))
    made = prepare(f"{tmp_path / 'base.npy'},{tmp_path / 'ask.npy'}", tmp_path / "cache")
    assert len(made.base) == 200 and (made.queries == vectors(7)).all()


def test_ann_benchmarks_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "Made.HDF5"
    base, queries = vectors(300), vectors(9)
    neighbours, distances = truth.true_neighbours(base, queries, "euclidean", 10)
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = "euclidean"
        for name, array in (
            ("train", base),
            ("test", queries),
            ("neighbors", neighbours),
            ("distances", distances),
        ):
            file[name] = array
    made = prepare(str(path), tmp_path / "cache")
    assert made.metric == "euclidean" and (made.queries == queries).all()
    assert made.distances[:, :10] == pytest.approx(distances)
    with h5py.File(path, "a") as file:
        file.attrs["distance"] = "jaccard"
    with pytest.raises(InvalidArgumentError, match="jaccard"):
        prepare(str(path), tmp_path / "cache")


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"train": None}, "data set 'train', got members: test"),
        ({"test": None}, "data set 'test', got members: train"),
        ({"train": None, "test": None}, "got members: nothing"),
        ({"train": np.zeros((0, 12), np.float32)}, r"train: .* got float32 of shape \(0, 12\)"),
        ({"test": np.zeros((0, 12), np.float32)}, r"test: .* got float32 of shape \(0, 12\)"),
        ({"train": np.zeros((9, 0), np.float32)}, r"train: .* of shape \(9, 0\)"),
        ({"train": np.zeros(9, np.float32)}, r"train: .* of shape \(9,\)"),
        ({"train": np.zeros((3, 3, 12), np.float32)}, r"train: .* of shape \(3, 3, 12\)"),
        ({"train": np.float32(1)}, r"train: .* of shape \(\)"),
        ({"train": np.array([[b"a", b"b"]])}, "train: expected numbers"),
        ({"test": vectors(9, 5)}, r"equal width, got shapes \(300, 12\) and \(9, 5\)"),
        ({"test": vectors(300)}, "not queries, but all 300 rows are"),
        ({"train": "folder"}, "data set 'train', got members: test, train"),
        ({"train": spoiled(np.nan)}, "vectors: row 7 has nan at component 3"),
        ({"train": spoiled(1e300)}, "vectors: row 7 has inf at component 3"),
        ({"test": spoiled(np.inf)}, "queries: row 7 has inf at component 3"),
        ({"train": np.zeros((9, 12)), "distance": "angular"}, "vectors: row 0 has length 0"),
    ],
)
def test_an_hdf5_file_of_another_shape_is_refused(
    tmp_path: Path, change: dict[str, object], pattern: str
) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "made.hdf5"
    with h5py.File(path, "w") as file:
        for name, array in {"train": vectors(300), "test": vectors(9), **change}.items():
            if name == "distance":
                continue
            if isinstance(array, str):
                file.create_group(name)
            elif array is not None:
                file[name] = array
        file.attrs["distance"] = change.get("distance", "euclidean")
    with pytest.raises(InvalidArgumentError, match=pattern):
        prepare(str(path), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_file_that_is_no_hdf5_or_npy_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    np.save(tmp_path / "flat.npy", np.zeros(5))
    np.save(tmp_path / "none.npy", np.zeros((0, 5)))
    np.save(tmp_path / "pickle.npy", np.array([[object()]]), allow_pickle=True)
    for name in ("text.hdf5", "empty.hdf5", "text.npy", "empty.npy"):
        (tmp_path / name).write_text("some text" if "text" in name else "")
    for path in tmp_path.iterdir():
        with pytest.raises(InvalidArgumentError, match=path.name):
            prepare(str(path), tmp_path / "cache")


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", vectors(5))
    for name, error in (
        ("nothing", InvalidArgumentError),
        ("glove-50@manhattan", InvalidArgumentError),
        (str(tmp_path / "none.npy"), NotFoundError),
        (str(tmp_path / "few.npy"), InvalidArgumentError),
    ):
        with pytest.raises(error):
            prepare(name, tmp_path / "cache")


def test_the_cache_is_where_it_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "vecdb-bench"
    assert cache_folder(tmp_path / "own") == tmp_path / "own"


def test_derived_sources_have_the_dimensions_of_their_names(tmp_path: Path) -> None:
    for name, metric in (("latent-6:2000", "euclidean"), ("glove-12:2000", "cosine")):
        made = prepare(name, tmp_path, queries=20)
        assert made.base.shape == (2000, int(name.split("-")[1].split(":")[0]))
        assert made.metric == metric
        assert made.recall(made.neighbours, 10) == 1.0
