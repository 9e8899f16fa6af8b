"""Gathers the values of fields from the metadata of rows, slice by slice, in node order.

Objects are flattened: ``{"author": {"name": "x"}}`` has the fields ``author``, which is present,
and ``author.name``. Elements of a list that are null, a boolean, a number or a string are values of
its field; lists and objects inside a list are not looked into, as no condition on a field does.

Rows of the same keys, as most are, are taken column by column; others value by value.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.segments.columns.numbers import INT64_MAX, INT64_MIN

__all__ = ["STRING_BYTES_MAX", "Collector", "FieldValues", "Path"]

Path = tuple[str, ...]

STRING_BYTES_MAX: Final = 512
"""Longer strings are not indexed; conditions that they may fulfil are decided by the record."""

PATHS_MAX: Final = 4_096
"""Further fields of a segment are not collected: a bound of the memory of a build."""

TEXT_BYTES_MAX: Final = 128 * 1024**2
"""Most bytes of the distinct strings of a field."""

DISTINCT_TEXTS_MAX: Final = 4_000_000
"""Most distinct strings of a field."""

NOT_NAMED: Final = "not in index_fields"
"""Why a field is left out that the collection does not name."""

Numbers = npt.NDArray[Any]
Values = Sequence[Any]
"""As ``json.loads`` returns them."""


class FieldValues:
    """The values of one field so far. Lists hold arrays, one for each slice that has such values.

    Attributes:
        present, lists, objects, odd: nodes where the field is present, is a list, is an object, or
            has a value that is not indexed (a longer string, an integer beyond 64 bits).
        long_texts: number of values that are longer strings.
        inner_lists, inner_objects: number of elements of lists that are lists, and objects.
        nulls, falses, trues: nodes with such a value.
        integers, doubles: nodes and values.
        texts: distinct strings, in the order in which they were first seen, and their numbers.
        text_nodes, text_numbers: nodes with a string, and which.
        left_out: why the field is not collected any more; "" if it is.
    """

    __slots__ = (
        "doubles",
        "falses",
        "inner_lists",
        "inner_objects",
        "integers",
        "left_out",
        "lists",
        "long_texts",
        "nulls",
        "objects",
        "odd",
        "present",
        "text_bytes",
        "text_nodes",
        "text_numbers",
        "texts",
        "trues",
    )

    def __init__(self) -> None:
        self.present: list[Numbers] = []
        self.lists: list[Numbers] = []
        self.objects: list[Numbers] = []
        self.odd: list[Numbers] = []
        self.long_texts = self.inner_lists = self.inner_objects = 0
        self.nulls: list[Numbers] = []
        self.falses: list[Numbers] = []
        self.trues: list[Numbers] = []
        self.integers: list[tuple[Numbers, Numbers]] = []
        self.doubles: list[tuple[Numbers, Numbers]] = []
        self.texts: dict[str, int] = {}
        self.text_bytes = 0
        self.text_nodes: list[Numbers] = []
        self.text_numbers: list[Numbers] = []
        self.left_out = ""

    @property
    def rows(self) -> int:
        """The number of rows that have the field."""
        return sum(map(len, self.present))

    def give_up(self, reason: str) -> None:
        """Drop the values; only how many rows have the field is still counted."""
        present = self.present
        self.__init__()  # type: ignore[misc]
        self.present, self.left_out = present, reason

    def add_scalars(self, nodes: Numbers, values: Values, types: set[type]) -> None:
        """Add null, booleans, numbers and strings, one for each node.

        nodes: int32, with duplicates if they are elements of lists.
        """
        if self.left_out:
            return
        if len(types) > 1:
            for each in types:
                chosen = [at for at, value in enumerate(values) if type(value) is each]
                self.add_scalars(nodes[chosen], [values[at] for at in chosen], {each})
            return
        [only] = types
        if only is str:
            self._add_texts(nodes, values)
        elif only is int:
            self._add_integers(nodes, values)
        elif only is float:
            self.doubles.append((nodes, np.array(values, np.float64)))
        elif only is bool:
            is_true = np.array(values, np.bool_)
            self.trues.append(nodes[is_true])
            self.falses.append(nodes[~is_true])
        else:
            self.nulls.append(nodes)

    def _add_integers(self, nodes: Numbers, values: Sequence[int]) -> None:
        try:
            self.integers.append((nodes, np.array(values, np.int64)))
        except OverflowError:
            small = [INT64_MIN <= value <= INT64_MAX for value in values]
            fits = np.array(small, np.bool_)
            inside = [value for value, each in zip(values, small, strict=True) if each]
            self.odd.append(nodes[~fits])
            self.integers.append((nodes[fits], np.array(inside, np.int64)))

    def _add_texts(self, nodes: Numbers, values: Sequence[str]) -> None:
        # A character takes at most 4 bytes.
        if max(map(len, values)) > STRING_BYTES_MAX // 4:
            short = [len(value.encode()) <= STRING_BYTES_MAX for value in values]
            if not all(short):
                fits = np.array(short, np.bool_)
                self.odd.append(nodes[~fits])
                self.long_texts += short.count(False)
                nodes = nodes[fits]
                values = [value for value, each in zip(values, short, strict=True) if each]
        texts = self.texts
        known = len(texts)
        setdefault = texts.setdefault
        numbers = [setdefault(value, len(texts)) for value in values]
        self.text_nodes.append(nodes)
        self.text_numbers.append(np.array(numbers, np.int32))
        if len(texts) > known:
            new = [value for value in set(values) if texts[value] >= known]
            self.text_bytes += sum(map(len, new))
            if len(texts) > DISTINCT_TEXTS_MAX:
                self.give_up(f"more than {DISTINCT_TEXTS_MAX:,} distinct strings")
            elif self.text_bytes > TEXT_BYTES_MAX:
                self.give_up(f"distinct strings of more than {TEXT_BYTES_MAX:,} bytes")


class Collector:
    """Collects the fields of a segment. Not thread-safe.

    Attributes:
        fields: by path.
        count: nodes so far.
        unlisted: whether some rows have further fields, which are not in ``fields``.
    """

    def __init__(self, named: Collection[Path] | None = None) -> None:
        """Create a collector of the fields with these paths; None for all."""
        self._named = named
        self._others_max = PATHS_MAX + len(named or ())
        self.fields: dict[Path, FieldValues] = {}
        self.count = 0
        self.unlisted = False

    def add(self, raw: Sequence[bytes]) -> None:
        """Add the next nodes. raw: metadata of each as JSON of an object, b"" for none."""
        # All texts as one array take a third of the time.
        entries = json.loads(b"[%b]" % b",".join([text or b"{}" for text in raw]))
        nodes = np.arange(self.count, self.count + len(entries), dtype=np.int32)
        self.count += len(entries)
        self._add_objects((), nodes, entries)

    def _add_objects(self, path: Path, nodes: Numbers, entries: Values) -> None:
        keys = entries[0].keys()
        if all(entry.keys() == keys for entry in entries):
            for key in keys:
                self._add_values((*path, key), nodes, [entry[key] for entry in entries])
            return
        places: defaultdict[str, list[int]] = defaultdict(list)
        values: defaultdict[str, list[Any]] = defaultdict(list)
        for at, entry in enumerate(entries):
            for key, value in entry.items():
                places[key].append(at)
                values[key].append(value)
        for key, chosen in places.items():
            self._add_values((*path, key), nodes[chosen], values[key])

    def _add_values(self, path: Path, nodes: Numbers, values: Values) -> None:
        field = self.fields.get(path)
        if field is None:
            is_named = self._named is not None and path in self._named
            if len(self.fields) >= self._others_max and not is_named:
                self.unlisted = True
                return
            field = self.fields[path] = FieldValues()
            if self._named is not None and not is_named:
                field.give_up(NOT_NAMED)
        field.present.append(nodes)
        types = set(map(type, values))
        if dict not in types and list not in types:
            field.add_scalars(nodes, values, types)
            return
        for kind, add in ((dict, self._add_inner), (list, self._add_lists)):
            if kind in types:
                chosen = [at for at, value in enumerate(values) if type(value) is kind]
                add(path, field, nodes[chosen], [values[at] for at in chosen])
        types -= {dict, list}
        if types:
            chosen = [at for at, value in enumerate(values) if type(value) in types]
            field.add_scalars(nodes[chosen], [values[at] for at in chosen], types)

    def _add_inner(self, path: Path, field: FieldValues, nodes: Numbers, values: Values) -> None:
        field.objects.append(nodes)
        self._add_objects(path, nodes, values)

    def _add_lists(self, path: Path, field: FieldValues, nodes: Numbers, values: Values) -> None:
        field.lists.append(nodes)
        counts = np.fromiter(map(len, values), np.int64, len(values))
        elements = [element for value in values for element in value]
        types = set(map(type, elements))
        owners = np.repeat(nodes, counts)
        if types & {dict, list}:
            chosen = [at for at, each in enumerate(elements) if type(each) not in (dict, list)]
            inner_lists = sum(type(each) is list for each in elements)
            field.inner_lists += inner_lists
            field.inner_objects += len(elements) - len(chosen) - inner_lists
            owners, elements = owners[chosen], [elements[at] for at in chosen]
            types -= {dict, list}
        if elements:
            field.add_scalars(owners, elements, types)
