"""What a kind of segment part is: how it is written, read, compared, and derived again.

A segment is a manifest and a list of named parts. A part is one or more arrays, each in a .npy
file, and perhaps a few values in the manifest. A kind knows how to turn a value (a graph, say) into
arrays and back; the table of all kinds is in ``parts.py``, and everything else (flushing, building
graphs, verifying, backup, checking, rebuilding) goes by that table and by the manifest.

To add a kind: subclass ``PartKind`` in a file of its own, and add an instance to the table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy.typing as npt

from vecdb.engine.segments.array_files import ArrayRecord, SegmentDamagedError, verify_array
from vecdb.reasons import Reason
from vecdb.types import Metric

__all__ = ["PartData", "PartFiles", "PartKind", "PartSource"]

T = TypeVar("T")


@dataclass(frozen=True)
class PartData:
    """A part in the form that is written.

    Attributes:
        arrays: by the names of ``PartKind.arrays``, of any dtype and shape.
        fields: further keys of the manifest; no other kind may use the same ones.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PartFiles:
    """A part as it is found on disk.

    Attributes:
        folder: the segment's, for messages.
        arrays: mapped read-only; their bytes are not compared with the checksums yet.
        manifest: the segment's manifest, for the part's fields.
        count, width: rows of the segment, and floats of a vector as it is stored.
    """

    folder: Path
    arrays: Mapping[str, npt.NDArray[Any]]
    manifest: Mapping[str, Any]
    count: int
    width: int

    def check(self, *, fit: bool) -> None:
        """Raise SegmentDamagedError unless the arrays ``fit`` the segment."""
        if not fit:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in self.arrays.items())
            raise SegmentDamagedError(
                f"{self.folder}: expected arrays for {self.count} rows, got {shapes}",
                Reason.SEGMENT,
            )


@dataclass(frozen=True)
class PartSource:
    """What parts are derived from and compared with: the other parts of the segment, by name."""

    metric: Metric
    parts: Mapping[str, Any]


class PartKind(ABC, Generic[T]):
    """A kind of part, whose value in memory is a ``T``. Instances have no state.

    Attributes:
        name: in the table, in ``SegmentEntry.lost_parts`` and in messages. Never change it.
        arrays: names of the files, without .npy; unique among all kinds. Never change them.
        needed: True: a segment that has this part can't be used without it. If it is missing or
            damaged, the whole segment is quarantined and rebuilt from the store. False: the segment
            goes on serving without the part, and the indexer derives it again.
    """

    name: ClassVar[str]
    arrays: ClassVar[tuple[str, ...]]
    needed: ClassVar[bool] = True

    @abstractmethod
    def write(self, value: T) -> PartData:
        """Return the arrays to write and the fields for the manifest."""

    @abstractmethod
    def read(self, files: PartFiles) -> T:
        """Return the value over mapped arrays; compares shapes and reads no data.

        Raises:
            SegmentDamagedError: the arrays do not fit each other or the segment.
        """

    def verify(
        self, folder: Path, records: Mapping[str, ArrayRecord], check: Callable[[], None] | None
    ) -> None:
        """Compare the files with their checksums: by default the CRC-32 of each array's data.

        Args:
            records: of this part's arrays, as ``write_array`` returned them.
            check: called between pieces of a few milliseconds, to raise if the work should end.

        Raises:
            FileNotFoundError: a file is gone.
            SegmentDamagedError: a checksum differs.
        """
        for name, record in records.items():
            verify_array(folder, name, record, check)

    def derive(self, source: PartSource) -> T | None:
        """Return the part for a segment that is about to be written without it.

        None, as by default: the segment does without. Parts that come earlier in the table are in
        ``source``.
        """
        return None

    def faults(self, value: T, source: PartSource) -> list[str]:
        """Return what is wrong with a part beside its checksum, a sentence each; for a check."""
        return []

    def of(self, parts: Mapping[str, Any]) -> T | None:
        """Return the part of this kind, None if there is none."""
        value: T | None = parts.get(self.name)
        return value
