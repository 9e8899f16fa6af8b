"""Texts with real metadata, embedded with wordllama: ``text.py OUT WORDNET GCIDE``.

The texts are glosses of WordNet, entries of the Collaborative International Dictionary of English,
and descriptions of Debian packages (those that ``apt-cache dumpavail`` prints, if any). The script
writes vectors.npy, float32, shape (n, 256), and metadata.jsonl with one line per vector: source,
part of speech, length of the text. Duplicate texts are removed.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

_PARTS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_WORD_CLASS = re.compile(r"\\,?\s*(n|v|a|adv)\.")
_TEXT_CHARACTERS_MAX = 600


class Text(NamedTuple):
    """One text with its source and part of speech."""

    text: str
    source: str
    part: str


def main() -> None:
    """Write the vectors and their metadata."""
    import wordllama

    out, wordnet, gcide = (Path(argument) for argument in sys.argv[1:4])
    texts = list({each.text: each for each in _all_texts(wordnet, gcide)}.values())
    model = wordllama.WordLlama.load(
        cache_dir=Path(wordllama.__file__).parent, disable_download=True
    )
    vectors = np.concatenate(
        [
            np.asarray(model.embed([each.text for each in texts[at : at + 4096]]), np.float32)
            for at in range(0, len(texts), 4096)
        ]
    )
    keep = np.linalg.norm(vectors, axis=1) > 0
    np.save(out / "vectors.npy", vectors[keep])
    with (out / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for each, kept in zip(texts, keep, strict=True):
            if kept:
                line = {"source": each.source, "part": each.part, "length": len(each.text)}
                file.write(json.dumps(line) + "\n")


def _all_texts(wordnet: Path, gcide: Path) -> Iterator[Text]:
    yield from _glosses(wordnet)
    yield from _entries(gcide)
    yield from _descriptions()


def _glosses(folder: Path) -> Iterator[Text]:
    for name in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{name}").read_text(encoding="utf-8").splitlines():
            facts, bar, gloss = line.partition(" | ")
            if bar and not line.startswith(" "):
                yield Text(gloss.strip(), "wordnet", _PARTS[facts.split()[2]])


def _entries(path: Path) -> Iterator[Text]:
    everything = gzip.decompress(path.read_bytes())
    places = set()
    for line in path.with_name("gcide.index").read_text(encoding="utf-8").splitlines():
        word, place, size = line.split("\t")[:3]
        if not word.startswith("00-"):
            places.add((_number(place), _number(size)))
    for first, length in sorted(places):
        text = " ".join(everything[first : first + length].decode("utf-8", "replace").split())
        found = _WORD_CLASS.search(text[:200])
        part = {"n": "noun", "v": "verb", "a": "adjective", "adv": "adverb"}
        yield Text(text[:_TEXT_CHARACTERS_MAX], "gcide", part[found[1]] if found else "other")


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + _DIGITS.index(digit)
    return value


def _descriptions() -> Iterator[Text]:
    try:
        done = subprocess.run(
            ["apt-cache", "dumpavail"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return
    for block in done.stdout.split("\n\n"):
        found = re.search(r"^Description(?:-en)?: (.*(?:\n .*)*)", block, re.MULTILINE)
        if found:
            text = " ".join(found[1].replace("\n .\n", "\n").split())
            yield Text(text[:_TEXT_CHARACTERS_MAX], "debian", "noun")


if __name__ == "__main__":
    main()
