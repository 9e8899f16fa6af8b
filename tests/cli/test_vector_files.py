"""Readers of vector files: what is written comes back; broken files are refused with the place."""

from __future__ import annotations

import gzip
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecdb.errors import InvalidArgumentError
from vecdb_cli.vector_files import open_vectors

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
WORDS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=" \n\r\t\ufeff"),
    min_size=1,
    max_size=20,
)


def rows(n: int, dim: int = 4) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, dim), dtype=np.float32)


def read(path: Path, block_rows: int = 3, **options: Any) -> tuple[list[Any], np.ndarray, list]:
    """The whole file, read in small blocks."""
    file = open_vectors(path, **options)
    ids: list[Any] = []
    parts = [np.empty((0, file.dim), np.float32)]
    metadata: list[Any] = []
    for block in file.blocks(block_rows):
        assert 0 < len(block.ids) <= block_rows
        assert block.vectors.shape == (len(block.ids), file.dim)
        assert block.vectors.dtype == np.float32
        ids += block.ids
        parts.append(block.vectors)
        metadata += block.metadata or []
    assert len(ids) == file.rows
    return ids, np.concatenate(parts), metadata


def refused(path: Path, pattern: str, **options: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=pattern) as caught:
        read(path, **options)
    assert str(path) in caught.value.message or options


def write_bin(
    path: Path, words: list[bytes], vectors: np.ndarray, *, newline: bool = True
) -> bytes:
    end = b"\n" if newline else b""
    parts = [b"%d %d\n" % vectors.shape]
    for word, vector in zip(words, vectors, strict=True):
        parts.append(word + b" " + vector.astype("<f4").tobytes() + end)
    path.write_bytes(b"".join(parts))
    return b"".join(parts)


def text_line(word: str, vector: np.ndarray, end: str = "\n") -> str:
    return f"{word} {' '.join(repr(float(x)) for x in vector)}{end}"


# --- .npy


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2", ">f4", "i4", "u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_any_number_type(tmp_path: Path, dtype: str, order: Any) -> None:
    matrix = np.arange(28).reshape(7, 4).astype(dtype, order=order)
    np.save(tmp_path / "X.npy", matrix)
    ids, vectors, metadata = read(tmp_path / "X.npy")
    assert ids == list(range(7)) and metadata == []
    assert np.array_equal(vectors, matrix.astype(np.float32))


@pytest.mark.parametrize("kind", ["txt", "npy text", "npy int", "json"])
def test_ids_beside_an_npy(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "X.npy", rows(5))
    names: list[Any] = ["a", "b c", "ü", "日本", "e"]
    if kind == "txt":
        (tmp_path / "X.ids.txt").write_bytes("\r\n".join(names).encode())
    elif kind == "npy text":
        np.save(tmp_path / "X.ids.npy", np.array(names))
    elif kind == "npy int":
        names = [5, 4, 3, 2, 1]
        np.save(tmp_path / "X.ids.npy", np.array(names))
    else:
        (tmp_path / "X.ids.json").write_text(json.dumps(names))
    assert read(tmp_path / "X.npy")[0] == names


def test_ids_and_metadata_that_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", rows(4))
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "facts.jsonl").write_text('{"n": 1}\n\nnull\n{"n": [2]}\n')
    ids, _, metadata = read(
        tmp_path / "X.npy", ids=tmp_path / "names.txt", metadata=tmp_path / "facts.jsonl"
    )
    assert ids == ["a", "b", "c", "d"]
    assert metadata == [{"n": 1}, None, None, {"n": [2]}]


def test_limit_reads_no_further(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", rows(10))
    (tmp_path / "X.metadata.jsonl").write_text('{"n": 1}\n' * 5 + "broken\n" * 5)
    blocks = list(open_vectors(tmp_path / "X.npy").blocks(3, limit=5))
    assert [len(block.ids) for block in blocks] == [3, 2]
    assert [len(block.metadata or []) for block in blocks] == [3, 2]


def test_npy_refusals(tmp_path: Path) -> None:
    path = tmp_path / "X.npy"
    path.write_bytes(b"nonsense")
    refused(path, "not a readable .npy file")
    np.save(path, rows(100))
    path.write_bytes(path.read_bytes()[:-8])
    refused(path, "not a readable .npy file")
    np.save(path, rows(3))
    whole = path.read_bytes()
    for change in ((b"}", b" "), (b"'shape'", b"b'shap'"), (b"(3, 4)", b"(-3,4)")):
        path.write_bytes(whole.replace(*change))
        refused(path, "not a readable .npy file")
    np.save(path, np.zeros(5))
    refused(path, "2 axes, got float64 with 1")
    np.save(path, np.array([["a", "b"]]))
    refused(path, "matrix of numbers")
    np.save(path, np.zeros((2, 0)))
    refused(path, "dim must be 1 to 16384, got 0")
    np.save(path, np.array([[object()]]), allow_pickle=True)
    refused(path, "not a readable .npy file")


def test_counts_that_differ_are_found_before_the_first_row(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", rows(3))
    (tmp_path / "X.ids.txt").write_text("a\nb\n")
    with pytest.raises(InvalidArgumentError, match=r"expected 3 entries.*got 2"):
        open_vectors(tmp_path / "X.npy")
    (tmp_path / "X.ids.txt").write_text("a\nb\nc\n")
    (tmp_path / "X.metadata.jsonl").write_text("{}\n{}\n{}\n{}\n")
    with pytest.raises(InvalidArgumentError, match=r"expected 3 entries.*got 4"):
        open_vectors(tmp_path / "X.npy")


@pytest.mark.parametrize(
    ("line", "pattern"),
    [("[1]", "line 2: expected a JSON object, got list"), ("{", "line 2: not JSON")],
)
def test_broken_metadata(tmp_path: Path, line: str, pattern: str) -> None:
    np.save(tmp_path / "X.npy", rows(3))
    (tmp_path / "X.metadata.jsonl").write_text(f"{{}}\n{line}\n{{}}\n")
    refused(tmp_path / "X.npy", pattern, metadata=tmp_path / "X.metadata.jsonl")


def test_broken_ids(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", rows(3))
    ids = tmp_path / "X.ids.txt"
    ids.write_bytes(b"a\n\nc\n")
    refused(tmp_path / "X.npy", "line 2: the id is empty", ids=ids)
    ids.write_bytes(b"a\nb\n\xff\n")
    refused(tmp_path / "X.npy", "line 3: .* is not UTF-8", ids=ids)
    (tmp_path / "ids.json").write_text('{"a": 1}')
    refused(tmp_path / "X.npy", "expected a JSON list, got dict", ids=tmp_path / "ids.json")
    refused(tmp_path / "X.npy", "must be .txt, .npy or .json", ids=tmp_path / "ids.csv")


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "X.csv", "must end with one of .npy, .vec, .txt, .bin")


# --- text


@given(
    words=st.lists(WORDS, min_size=1, max_size=10),
    dim=st.integers(2, 5),
    data=st.data(),
    header=st.booleans(),
    end=st.sampled_from(["\n", " \n", "\r\n"]),
)
def test_text_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    words: list[str],
    dim: int,
    data: st.DataObject,
    header: bool,
    end: str,
) -> None:
    numbers = st.lists(FLOATS, min_size=dim, max_size=dim)
    vectors = np.array(
        data.draw(st.lists(numbers, min_size=len(words), max_size=len(words))), np.float32
    )
    text = f"{len(words)} {dim}{end}" if header else ""
    text += "".join(text_line(word, v, end) for word, v in zip(words, vectors, strict=True))
    path = tmp_path_factory.mktemp("vec") / "words.vec"
    path.write_bytes(text.encode())
    ids, got, _ = read(path)
    assert ids == words
    assert np.array_equal(got.view(np.uint32), vectors.view(np.uint32))


def test_words_with_spaces(tmp_path: Path) -> None:
    vectors = rows(4)
    words = [". . .", "to name@domain.com", "plain", "3 a\u00a0b\u2009c"]
    path = tmp_path / "glove.txt"
    path.write_text("".join(map(text_line, words, vectors)))
    ids, got, _ = read(path)
    assert ids == words
    assert np.array_equal(got, vectors)


def test_a_last_line_without_newline(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("a 1 2 3\nb 4 5 6")
    assert read(path)[0] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("2 3\na 1 2 3\nb 1 2\n", "line 3: expected a word and 3 numbers, got 3 fields"),
        ("2 3\na 1 2 3\nb 1 2 3 4\n", "line 3: expected a word and 3 numbers, got more numbers"),
        ("2 3\na 1 2 3\nb 1 x 3\n", "line 3: b'x' is not a number"),
        ("a 1 2 3\nb 1 2 3\nc 1 2 3\nd 1 2 3\ne 1 x 3\n", "line 5: b'x' is not a number"),
        ("3 3\na 1 2 3\nb 1 2 3\n", "the header says 3 rows, got 2"),
        ("1 3\na 1 2 3\nb 1 2 3\n", "line 3: the header says 1 rows, got more"),
        ("2 3\na 1 2 3\n 1 2 3\n", "line 3: the id is empty"),
        ("1 99999\n", "dim must be 1 to 16384, got 99999"),
        ("word\nword\n", "dim must be 1 to 16384, got 0"),
        ("", "the file is empty"),
    ],
)
def test_text_refusals(tmp_path: Path, text: str, pattern: str) -> None:
    path = tmp_path / "words.vec"
    path.write_text(text)
    refused(path, pattern)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff{header}a 1 2 3\nb 4 5 6\n",
        "{header}a 1 2 3\r\nb 4 5 6\r\n\r\n",
        "{header}a 1 2 3\nb 4 5 6\n\n \n\t\n",
        "{header}a\t1\t2\t3\nb\t4\t5\t6\n",
        "{header}a\t1 2 3\nb 4\t5 6\t\n",
        "{header}a   1  2 3\n  b 4 5    6  \n",
        "{header}a 1e0 +2.0 .3e1\nb 4. 5 6",
    ],
    ids=["bom", "crlf", "blank end", "tabs", "mixed", "spaces", "numbers"],
)
@pytest.mark.parametrize("header", ["", "2 3\n", "2\t3\r\n"])
def test_text_as_other_programs_write_it_loads(tmp_path: Path, text: str, header: str) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(text.format(header=header).encode())
    ids, vectors, _ = read(path)
    assert ids == ["a", "b"]
    assert vectors.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_words_with_spaces_and_separators_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("a\t1\t2\nof the\t3\t4\n\u00a0 x\u3000y  5 6\n".encode())
    ids, vectors, _ = read(path)
    assert ids == ["a", "of the", "\u00a0 x\u3000y"]
    assert vectors.tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("a 1 2 3\nb 1 2\nc 1 2 3\n", "line 2: expected a word and 3 numbers, got 3 fields"),
        ("a 1 2 3\nb 1 2\n", "line 2: expected a word and 3 numbers, got 3 fields"),
        ("a 1 2\nb 1 2 3\n", "line 1: expected a word and 3 numbers, got 3 fields"),
        ("a 1 2\nb 1 2 3\nc 1 2\n", "line 2: expected a word and 2 numbers, got more numbers"),
        ("a 1 2\n\nb 1 2\n", "line 2: expected a word and 2 numbers, got 0 fields"),
        ("a 1 1_000\nb 1 2\n", "line 1: b'1_000' is not a number"),
        ("new_york 1 1_000\n", "line 1: b'1_000' is not a number"),
        ("a 1 0x1p3\nb 1 2\n", "line 1: b'0x1p3' is not a number"),
        ("a 1 2\vb\nb 1 2\n", "line 1: b'2.x0bb' is not a number"),
        ("a 1 2\f\nb 1 2\n", "line 1: b'2.x0c' is not a number"),
        ("a 1 \u0663\nb 1 2\n", "line 1: .* is not a number"),
        ("a 1 2\0\nb 1 2\n", "line 1: b'2.x00' is not a number"),
        ("a 1 2\nb 1\n" + 8 * "c 1 2\n" + "d 1,5 2\n", "line 2: expected a word and 2 numbers"),
        ("2 3\n", "the header says 2 rows, got 0"),
        ("\ufeff2 3\na 1 2 3\n\n\n", "the header says 2 rows, got 1"),
        ("\n\n", "the file is empty"),
        ("a 1 2\nb " + "1" * 2**20 + " 2\n", "line 2 is longer than 1,048,576 bytes"),
    ],
)
def test_the_line_at_fault_is_named(tmp_path: Path, text: str, pattern: str) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(text.encode())
    refused(path, pattern)


def test_utf16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("a 1 2\n".encode("utf-16"))
    refused(path, "this is UTF-16, expected UTF-8")


def test_bad_rows_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "words.vec"
    path.write_bytes(b"6 2\na 1 2\nb 1\n\nd 1 x\n\xff 1 2\nf 3 4\n")
    (tmp_path / "words.metadata.jsonl").write_text('{"n": 1}\n' * 5 + '{"n": 6}\n')
    told: list[str] = []
    (block,) = open_vectors(path).blocks(10, on_bad=lambda error: told.append(error.message))
    assert block.ids == ["a", "f"] and block.numbers == [0, 5]
    assert block.vectors.tolist() == [[1, 2], [3, 4]]
    assert block.metadata == [{"n": 1}, {"n": 6}]
    assert [message.partition(": line ")[2][:1] for message in told] == ["3", "4", "5", "6"]
    # What is no row's fault is refused all the same.
    path.write_bytes(b"3 2\na 1 2\nb 1\n")
    (tmp_path / "words.metadata.jsonl").unlink()
    with pytest.raises(InvalidArgumentError, match="the header says 3 rows, got 2"):
        list(open_vectors(path).blocks(10, on_bad=lambda error: None))


# --- compressed, and endings in capitals


def test_endings_in_capitals_and_compressed_files_load(tmp_path: Path) -> None:
    vectors = rows(3)
    words = ["a", "b", "c"]
    np.save(tmp_path / "x.npy", vectors)
    write_bin(tmp_path / "x.bin", [word.encode() for word in words], vectors)
    (tmp_path / "x.vec").write_text("".join(map(text_line, words, vectors)))
    for ending in ("npy", "bin", "vec"):
        plain = (tmp_path / f"x.{ending}").read_bytes()
        (tmp_path / f"Y.{ending.upper()}").write_bytes(plain)
        (tmp_path / f"Z.{ending.upper()}.GZ").write_bytes(gzip.compress(plain))
    (tmp_path / "Y.ids.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\r\nc\r\n\r\n")
    (tmp_path / "Z.ids.json.gz").write_bytes(gzip.compress(b'["a", "b", "c"]'))
    (tmp_path / "Z.metadata.jsonl.gz").write_bytes(gzip.compress(b'{"n": 1}\n\n\n\n'))
    for name in ("Y", "Z"):
        for ending in ("NPY", "BIN", "VEC"):
            path = tmp_path / f"{name}.{ending}{'.GZ' if name == 'Z' else ''}"
            ids, got, metadata = read(path)
            assert ids == words and np.array_equal(got, vectors)
            assert metadata == ([{"n": 1}, None, None] if name == "Z" else [])


@pytest.mark.parametrize("ending", ["npy", "bin", "vec"])
def test_a_compressed_file_that_is_cut_or_none_is_refused(tmp_path: Path, ending: str) -> None:
    vectors = np.random.default_rng(1).standard_normal((500, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", vectors)
    write_bin(tmp_path / "x.bin", [b"w%d" % i for i in range(500)], vectors)
    lines = (text_line(f"w{i}", vector) for i, vector in enumerate(vectors))
    (tmp_path / "x.vec").write_text("".join(lines))
    plain = (tmp_path / f"x.{ending}").read_bytes()
    path = tmp_path / f"X.{ending}.gz"
    packed = gzip.compress(plain)
    path.write_bytes(packed[: len(packed) // 2])
    refused(path, "not a whole gzip file")
    path.write_bytes(plain)
    refused(path, "not a whole gzip file")
    path.write_bytes(packed[:200] + b"\xff" * 50 + packed[250:])
    refused(
        path, "not a whole gzip file|not a readable .npy|not a number|expected a word|truncated"
    )
    # Whole, but what was packed is cut.
    path.write_bytes(gzip.compress(plain[:-5]))
    if ending != "vec":
        refused(path, "not a readable .npy file|truncated: expected 32 bytes")


def test_a_folder_is_no_file_of_vectors(tmp_path: Path) -> None:
    for name in ("x.npy", "x.vec", "x.bin", "x.vec.gz"):
        (tmp_path / name).mkdir()
        with pytest.raises(OSError, match="directory"):
            open_vectors(tmp_path / name)


@pytest.mark.parametrize("form", ["vec", "bin", "npy"])
def test_a_pipe_is_read_once(tmp_path: Path, form: str) -> None:
    vectors, words = rows(3), ["a", "b", "c"]
    np.save(tmp_path / "x.npy", vectors)
    write_bin(tmp_path / "x.bin", [word.encode() for word in words], vectors)
    (tmp_path / "x.vec").write_text("".join(map(text_line, words, vectors)))
    reading, writing = os.pipe()
    with os.fdopen(reading):
        with os.fdopen(writing, "wb") as stream:
            stream.write((tmp_path / f"x.{form}").read_bytes())
        file = open_vectors(f"/dev/fd/{reading}", form=form)
        (block,) = file.blocks(10)
    assert block.ids == (words if form != "npy" else [0, 1, 2])
    assert np.array_equal(block.vectors, vectors)
    with pytest.raises(InvalidArgumentError, match=r"one of .npy, .vec, .txt, .bin"):
        open_vectors("/dev/fd/0")
    with pytest.raises(InvalidArgumentError, match="the form must be one of"):
        open_vectors("/dev/fd/0", form="csv")


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "words.vec"
    path.write_bytes(b"1 2\n\xff\xfe 1 2\n")
    refused(path, "line 2: .* is not UTF-8")


def test_nan_and_overflow_are_numbers_that_the_engine_refuses(tmp_path: Path) -> None:
    path = tmp_path / "words.vec"
    path.write_text("a 1 nan\nb 1 1e300\n")
    _, got, _ = read(path)
    assert np.isnan(got[0, 1]) and np.isinf(got[1, 1])


# --- binary


@given(
    words=st.lists(WORDS, min_size=1, max_size=10),
    dim=st.integers(1, 5),
    data=st.data(),
    newline=st.booleans(),
)
def test_bin_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    words: list[str],
    dim: int,
    data: st.DataObject,
    newline: bool,
) -> None:
    # Any bits, as spaces and newlines in a vector's bytes must not be taken for separators.
    bits = st.lists(st.integers(0, 2**32 - 1), min_size=dim, max_size=dim)
    vectors = np.array(
        data.draw(st.lists(bits, min_size=len(words), max_size=len(words))), np.uint32
    ).view(np.float32)
    path = tmp_path_factory.mktemp("bin") / "words.bin"
    write_bin(path, [word.encode() for word in words], vectors, newline=newline)
    ids, got, _ = read(path)
    assert ids == words
    assert np.array_equal(got.view(np.uint32), vectors.view(np.uint32))


def test_bin_larger_than_what_is_read_at_once(tmp_path: Path) -> None:
    vectors = rows(4000, 300)
    words = [f"word{i}".encode() for i in range(4000)]
    write_bin(tmp_path / "words.bin", words, vectors)
    ids, got, _ = read(tmp_path / "words.bin", block_rows=1500)
    assert ids == [word.decode() for word in words]
    assert np.array_equal(got, vectors)


def test_bin_refusals(tmp_path: Path) -> None:
    path = tmp_path / "words.bin"
    whole = write_bin(path, [b"a", b"bb", b"ccc"], rows(3))
    path.write_bytes(whole[:-30])
    refused(path, "truncated: 3 rows need at least 58 bytes, got 34")
    path.write_bytes(whole[:-3])
    refused(path, "row 2 at byte 42: truncated: expected 16 bytes, got 14")
    path.write_bytes(whole + b"more")
    refused(path, "byte 63: more bytes follow the last row")
    path.write_bytes(b"x" * 600)
    refused(path, "the first line must be")
    path.write_bytes(struct.pack("<ii", 793712314, 12) + b"\n")
    refused(path, "fastText model")
    path.write_bytes(b"1 2\n" + b"w" * 600 + b" 12345678")
    refused(path, "row 0 at byte 4: no word of at most 500 bytes")
    write_bin(path, [b"a", b"\xff", b"c"], rows(3))
    refused(path, "row 1 at byte .* is not UTF-8")
    write_bin(path, [b"a", b"", b"c"], rows(3))
    refused(path, "row 1 at byte .*: the id is empty")


def test_metadata_beside_words(tmp_path: Path) -> None:
    write_bin(tmp_path / "words.bin", [b"a", b"b"], rows(2))
    (tmp_path / "words.metadata.jsonl").write_text('{"rank": 0}\n{"rank": 1}\n')
    assert read(tmp_path / "words.bin")[2] == [{"rank": 0}, {"rank": 1}]
    with pytest.raises(InvalidArgumentError, match="holds its words itself"):
        open_vectors(tmp_path / "words.bin", ids=tmp_path / "ids.txt")
