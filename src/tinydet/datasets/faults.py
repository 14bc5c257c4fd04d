"""What can be wrong in a data set, by name, and how readers note it and go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from tinydet.records import Fault

EMPTY_FILE = "empty-file"
MALFORMED_FILE = "malformed-file"  # not the XML, JSON or text that its layout asks for; the whole file is left out
MALFORMED_OBJECT = "malformed-object"  # one object of a file cannot be understood; it is left out
MISSING_IMAGE = "missing-image"
MISSING_LABEL = "missing-label"
UNREADABLE_IMAGE = "unreadable-image"  # its header cannot be read
TRUNCATED_IMAGE = "truncated-image"  # its header is good, its pixels are not
SIZE_DIFFERS = "size-differs"  # the annotation states another size; the image's own is believed
ROTATED_IMAGE = "rotated-image"  # annotated as stored, shown turned by its EXIF orientation
BOX_OUTSIDE_IMAGE = "box-outside-image"
BOX_WITHOUT_AREA = "box-without-area"
UNKNOWN_CLASS = "unknown-class"
DUPLICATE_ID = "duplicate-id"


class FaultLog:
    """Collects faults while a reader goes on."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, kind: str, path: Path, message: str, line: int | None = None) -> None:
        self._faults.append(Fault(kind, path, message, line))

    def add_faulty(self, faulty: Faulty) -> None:
        self._faults.append(faulty.fault)

    def set_last_line(self, line: int | None) -> None:
        """Say where the last fault stands, for readers to which a line is costly to find."""
        self._faults[-1] = replace(self._faults[-1], line=line)

    def __len__(self) -> int:
        return len(self._faults)

    def as_tuple(self) -> tuple[Fault, ...]:
        return tuple(self._faults)


class Faulty(Exception):
    """Raised inside a reader where a whole file or sample has to be left out; never leaves the reader."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


def reject(kind: str, path: Path, message: str, line: int | None = None) -> NoReturn:
    raise Faulty(Fault(kind, path, message, line))


def counts_by_kind(faults: Iterable[Fault]) -> dict[str, int]:
    """How many faults of each kind, the most frequent first."""
    return dict(Counter(fault.kind for fault in faults).most_common())


def in_words(faults: Sequence[Fault]) -> str:
    """`3 missing-image, 1 empty-file`."""
    return ", ".join(f"{count} {kind}" for kind, count in counts_by_kind(faults).items())
