"""Scans by 8-bit codes compared with scans of float32 rows, bit by bit, over hostile data."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vecdb.engine.kernels import compiled as kernels

NOTHING_DELETED = np.zeros(0, np.uint8)
METRICS = {"cosine": kernels.INNER, "dot": kernels.INNER, "euclidean": kernels.EUCLIDEAN}
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def padded(raw: Any, metric: str) -> Any:
    out = np.empty((len(raw), -(-raw.shape[1] // 16) * 16), np.float32)
    kernels.prepare_rows(np.ascontiguousarray(raw, np.float32), out, metric == "cosine")
    return out


def coded(rows: Any, code: int, mean: Any = None) -> tuple[Any, Any, Any]:
    blocks, width = -(-len(rows) // 16), rows.shape[1]
    if mean is None:
        with np.errstate(over="ignore"):
            mean = rows.astype(np.float64).mean(0).astype(np.float32)
    codes = np.empty((blocks, 4 * width), np.uint32)
    factors = np.empty((blocks, 4, 16), np.float32)
    kernels.encode_rows(rows, mean, code, codes, factors)
    return codes.view(np.uint8), factors, mean


def heaps(queries: int, k: int) -> tuple[Any, Any, Any]:
    return (
        np.full((queries, k), np.nan, np.float32), np.full((queries, k), -1, np.int64),
        np.zeros(queries, np.int64),
    )  # fmt: skip


def scan_both(
    rows: Any, codes: Any, queries: Any, code: int, k: int, dead: Any = NOTHING_DELETED,
    step: int = 1 << 30,
) -> Any:  # fmt: skip
    """Scan in slices by both kernels, and compare the heaps after each; return rows scored."""
    q = len(queries)
    ours, theirs, scored = heaps(q, k), heaps(q, k), np.zeros(q, np.int64)
    for start in range(0, len(rows), step):
        stop = min(len(rows), start + step)
        kernels.scan_rows(rows, dead, start, stop, queries, 0, q, code, k, *theirs)
        kernels.scan_codes(rows, *codes, dead, start, stop, queries, 0, q, code, k, *ours, scored)
        for mine, expected in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(bits(mine), bits(expected))
    return scored


def bits(array: Any) -> Any:
    return array.view(np.int32) if array.dtype == np.float32 else array


def check_bounds(rows: Any, codes: Any, queries: Any, code: int) -> None:
    """No row is ruled out by its own score: the strictest limit that any heap can set."""
    for query in range(len(queries)):
        scores, nodes, counts = heaps(1, len(rows))
        one = np.ascontiguousarray(queries[query : query + 1])
        kernels.scan_rows(
            rows, NOTHING_DELETED, 0, len(rows), one, 0, 1, code, len(rows), scores, nodes, counts
        )
        for score, node in zip(scores[0, : counts[0]], nodes[0, : counts[0]], strict=True):
            heap = np.array([[score]]), np.array([[len(rows)]]), np.ones(1, np.int64)
            scored = np.zeros(1, np.int64)
            kernels.scan_codes(
                rows, *codes, NOTHING_DELETED, node, node + 1, one, 0, 1, code, 1, *heap, scored
            )
            assert scored[0] == 1 and heap[1][0, 0] == node


def hostile(random: Any, n: int, dim: int, kind: str) -> Any:
    raw = random.standard_normal((n, dim))
    if kind == "outliers":
        raw[random.integers(0, n, 1 + n // 10)] *= 10.0 ** random.uniform(-30, 30)
        raw[:, random.integers(0, dim)] *= 1e3
    elif kind == "constant":
        raw[:, : dim // 2] = random.choice([0.0, 1.0, -3e7, 1e-20])
        raw[:, dim // 2 :] = np.round(raw[:, dim // 2 :])
    elif kind == "denormal":
        raw *= 10.0 ** random.uniform(-45, -36)
    elif kind == "huge":
        raw *= 10.0 ** random.uniform(15, 37, (n, 1))
        raw = np.clip(raw, -3.3e38, 3.3e38)
    elif kind == "offset":
        raw = raw * 10.0 ** random.uniform(-6, 0) + 10.0 ** random.uniform(0, 6)
    elif kind == "integers":
        # Coded without loss: only the rounding of float32 sums is left to be covered.
        raw = random.integers(-127, 128, (n, dim)).astype(np.float64)
        raw[:, 0] = 127
    elif kind == "duplicates":
        raw = raw[random.integers(0, max(1, n // 8), n)]
        raw[random.integers(0, n)] = 0
    elif kind == "scales":
        raw *= 10.0 ** random.uniform(-38, 30, (n, 1))
    return raw.astype(np.float32)


KINDS = (
    "plain", "outliers", "constant", "denormal", "huge", "offset", "integers", "duplicates",
    "scales",
)  # fmt: skip


@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(KINDS),
    metric=st.sampled_from(list(METRICS)),
    n=st.integers(1, 150),
    dim=st.integers(1, 300),
    k=st.integers(1, 20),
    step=st.integers(1, 160),
    deleted=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    mean=st.sampled_from(["true", "zero", "wrong"]),
)
def test_scan_by_codes_is_a_scan_of_rows(
    seed: int, kind: str, metric: str, n: int, dim: int, k: int, step: int, deleted: float,
    mean: str,
) -> None:  # fmt: skip
    random = np.random.default_rng(seed)
    raw = hostile(random, n + 5, dim, kind)
    rows, code = padded(raw[:n], metric), METRICS[metric]
    # Some queries are rows, so that there are ties and distances of 0.
    queries = np.concatenate([padded(raw[n:], metric), rows[:3]])
    means = {
        "true": None,
        "zero": np.zeros(rows.shape[1], np.float32),
        "wrong": padded(hostile(random, 1, dim, "scales"), "dot")[0],
    }
    codes = coded(rows, code, means[mean])
    dead = random.random(n) < deleted
    bitmap = np.packbits(dead, bitorder="little") if deleted else NOTHING_DELETED
    scan_both(rows, codes, queries, code, min(k, n), bitmap, step)
    check_bounds(rows[:40], coded(rows[:40], code, means[mean]), queries[[0, -1]], code)


@given(
    raw=st.integers(1, 20).flatmap(
        lambda dim: arrays.arrays(np.float32, (40, dim), elements=FLOATS, fill=FLOATS)
    ),
    metric=st.sampled_from(list(METRICS)),
    k=st.integers(1, 10),
)
def test_any_floats_give_what_a_scan_of_rows_gives(raw: Any, metric: str, k: int) -> None:
    rows, queries, code = padded(raw[:35], metric), padded(raw[30:], metric), METRICS[metric]
    codes = coded(rows, code)
    scan_both(rows, codes, queries, code, k)
    check_bounds(rows, codes, queries[:2], code)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1_000, 4_096, 16_384])
@pytest.mark.parametrize("kind", ["plain", "offset", "integers", "huge"])
def test_wide_rows(metric: str, dim: int, kind: str) -> None:
    raw = hostile(np.random.default_rng(dim), 120, dim, kind)
    rows, queries, code = padded(raw[:110], metric), padded(raw[108:], metric), METRICS[metric]
    for mean in (None, np.zeros(dim + -dim % 16, np.float32)):
        codes = coded(rows, code, mean)
        scan_both(rows, codes, queries, code, 5, step=50)
        check_bounds(rows[:32], coded(rows[:32], code, mean), queries[:2], code)


@pytest.mark.parametrize("metric", METRICS)
def test_most_rows_are_ruled_out(metric: str) -> None:
    """Else the comparisons above would show nothing."""
    random, code = np.random.default_rng(1), METRICS[metric]
    centres = random.standard_normal((40, 100))
    raw = centres[random.integers(0, 40, 4_000)] + 0.3 * random.standard_normal((4_000, 100)) + 2
    rows, queries = padded(raw, metric), padded(raw[::100] + 0.1, metric)
    scored = scan_both(rows, coded(rows, code), queries, code, 10)
    least = 10 * (1 + np.log(len(rows) / 10))  # Until the nearest are known, in a random order.
    assert least / 2 < scored.mean() < 1.5 * least


@pytest.mark.parametrize("code", [kernels.INNER, kernels.EUCLIDEAN])
def test_bounds_are_as_low_as_they_must_be(code: int) -> None:
    """What is left by the codes points exactly towards the query: a lower error would be wrong."""
    random, width = np.random.default_rng(2), 64
    rows = ((random.integers(-126, 126, (64, width)) + 0.499) / 127).astype(np.float32)
    rows[:, 0] = 1
    queries, mean = np.full((1, width), 1, np.float32), np.zeros(width, np.float32)
    codes, factors, _ = coded(rows, code, mean)
    check_bounds(rows, (codes, factors, mean), queries, code)
    factors[:, 2] *= 0.97
    with pytest.raises(AssertionError):
        check_bounds(rows, (codes, factors, mean), queries, code)


@pytest.mark.parametrize("code", [kernels.INNER, kernels.EUCLIDEAN])
def test_rows_and_queries_too_long_for_float32_are_always_scored(code: int) -> None:
    random = np.random.default_rng(3)
    rows = random.standard_normal((64, 32)).astype(np.float32)
    queries = rows[:2].copy()
    long = rows.copy()
    long[5] *= np.float32(1e20)
    codes = coded(long, code, np.zeros(32, np.float32))
    assert np.flatnonzero(np.isinf(codes[1][:, 2].ravel())).tolist() == [5]
    scan_both(long, codes, queries, code, 1)
    every = scan_both(rows, coded(rows, code), queries * np.float32(1e20), code, 1)
    assert (every == 64).all()


@pytest.mark.parametrize("code", [kernels.INNER, kernels.EUCLIDEAN])
def test_useless_bounds_are_given_up(code: int) -> None:
    """Half of the rows have bounds that rule out nothing; the deleted ones are not scored."""
    random = np.random.default_rng(6)
    rows = random.standard_normal((6_000, 32)).astype(np.float32)
    queries, dead = rows[::1_000].copy(), random.random(6_000) < 0.1
    codes, factors, mean = coded(rows, code)
    bitmap = np.packbits(dead, bitorder="little")
    few = scan_both(rows, (codes, factors, mean), queries, code, 10, bitmap)
    assert (few < 600).all()
    factors[:, 2, ::2] = np.inf
    for step in (1 << 30, 2_999):
        scored = scan_both(rows, (codes, factors, mean), queries, code, 10, bitmap, step)
        assert (scored > 0.9 * np.count_nonzero(~dead)).all()


def test_arguments_that_do_not_fit_are_refused() -> None:
    rows = np.zeros((40, 16), np.float32)
    codes, factors, mean = coded(rows, kernels.INNER)
    queries, scored = rows[:2].copy(), np.zeros(2, np.int64)

    def scan(
        coded: tuple[Any, Any, Any], start: int = 0, stop: int = 40, last: int = 2, k: int = 3,
        scored: Any = scored,
    ) -> None:  # fmt: skip
        kernels.scan_codes(
            rows, *coded, NOTHING_DELETED, start, stop, queries, 0, last, 0, k, *heaps(2, 3), scored
        )

    scan((codes, factors, mean))
    for wrong in (
        (codes[:2], factors, mean),
        (codes, factors[:2], mean),
        (codes, factors[:, :3].copy(), mean),
        (codes, factors, np.zeros(32, np.float32)),
        (codes[:, :-64].copy(), factors, mean),
    ):
        with pytest.raises(ValueError, match="belong together"):
            scan(wrong)
    for arguments in ({"start": -1}, {"stop": 41}, {"k": 0}, {"k": 4}, {"last": 3}):
        with pytest.raises(ValueError, match="past the end"):
            scan((codes, factors, mean), **arguments)
    with pytest.raises(ValueError, match="past the end"):
        scan((codes, factors, mean), scored=scored[:1])
    with pytest.raises(ValueError, match="belong together"):
        kernels.encode_rows(rows, mean, 0, codes.view(np.uint32)[:2], factors)
    with pytest.raises(ValueError, match="belong together"):
        kernels.encode_rows(rows, mean[:8].copy(), 0, codes.view(np.uint32), factors)


def test_damaged_codes_stay_within_the_arrays() -> None:
    """Bytes that were not compared with their checksums yet may be anything."""
    random = np.random.default_rng(4)
    rows = random.standard_normal((100, 48)).astype(np.float32)
    codes = random.integers(0, 256, (7, 16 * 48), np.uint8)
    factors = random.integers(0, 256, (7, 4, 16, 4), np.uint8).view(np.float32)[..., 0].copy()
    scores, nodes, counts = heaps(10, 5)
    kernels.scan_codes(
        rows, codes, factors, rows[0].copy(), NOTHING_DELETED, 0, 100, rows[:10].copy(), 0, 10,
        kernels.EUCLIDEAN, 5, scores, nodes, counts, np.zeros(10, np.int64),
    )  # fmt: skip
    assert (counts == 5).all() and ((nodes >= 0) & (nodes < 100)).all()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["znver2", "generic"])
def test_other_processors_find_the_same(tmp_path: Path, model: str) -> None:
    """Compiled without AVX-512, codes are the same, and they rule out no row that they must not."""
    script = tmp_path / "scan.py"
    script.write_text(
        "import sys, numpy as np\n"
        "from tests.kernels.test_code_scan import *\n"
        "out = {}\n"
        "for metric, code in METRICS.items():\n"
        "    for kind in KINDS:\n"
        "        for dim in (7, 100, 1_000):\n"
        "            raw = hostile(np.random.default_rng(dim), 500, dim, kind)\n"
        "            rows = padded(raw[:480], metric)\n"
        "            queries, codes = padded(raw[470:], metric), coded(rows, code)\n"
        "            scan_both(rows, codes, queries, code, 10, step=100)\n"
        "            check_bounds(rows[:40], coded(rows[:40], code), queries[:2], code)\n"
        "            out[f'{metric}-{kind}-{dim}'] = codes[0]\n"
        "np.savez(sys.argv[1], **out)\n"
    )
    for name in ("native", model):
        environment = dict(os.environ, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
        if name != "native":
            environment |= {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ""}
        subprocess.run(
            [sys.executable, script, tmp_path / f"{name}.npz"], check=True, env=environment
        )
    native, other = (np.load(tmp_path / f"{name}.npz") for name in ("native", model))
    for name in native:
        np.testing.assert_array_equal(native[name], other[name])
    shutil.rmtree(tmp_path / "cache")
