"""What the readers of detection files share: the matching of image names, and rows that become `Detections`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tinydet.errors import InputError
from tinydet.records import Detections

Numbers = tuple[float, float, float, float]


@dataclass(frozen=True)
class DetectionFile:
    """What was read.

    Attributes:
        detections: by the data set's `image_id`; only images with a detection.
        notes: what the user should know: detections left out, scores rescaled, files missing.
    """

    detections: dict[str, Detections]
    notes: tuple[str, ...] = ()


class ImageNames:
    """Finds a data set's `image_id` by what other tools call the image.

    Those are the id itself, its last part (`a/b.jpg`: `b.jpg`, `b`), with or without the file's extension, and numbers
    without leading zeros; each only where it means one image.
    """

    def __init__(self, image_ids: Iterable[str]) -> None:
        self._exact = set(image_ids)
        self._aliases: dict[str, str | None] = {}
        for image_id in self._exact:
            for alias in set(_other_names(image_id)) - self._exact:
                self._aliases[alias] = None if alias in self._aliases else image_id

    def find(self, name: str) -> str | None:
        if name in self._exact:
            return name
        for candidate in (name, *_other_names(name)):
            if candidate in self._exact:
                return candidate
            if (image_id := self._aliases.get(candidate)) is not None:
                return image_id
        return None


def _other_names(name: str) -> Iterator[str]:
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    for text in dict.fromkeys((name, last)):
        stem, dot, extension = text.rpartition(".")
        for form in (text, stem) if dot and extension.lower() in ("jpg", "jpeg", "png", "bmp", "webp") else (text,):
            if form != name:
                yield form
            if form.isascii() and form.isdigit() and str(int(form)) != form:
                yield str(int(form))


@dataclass
class _Rows:
    boxes_xyxy: list[Numbers] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


class RowCollector:
    """Takes detections one by one and makes records of them.

    Args:
        image_ids: those of the data set; None to take every image.
        source: what was read, for messages.
    """

    def __init__(self, source: Path, image_ids: Iterable[str] | None) -> None:
        self.notes: list[str] = []
        self._source = source
        self._names = None if image_ids is None else ImageNames(image_ids)
        self._rows: dict[str, _Rows] = {}
        self._found: dict[str, str | None] = {}
        self._left_out = 0
        self._first_left_out = ""

    def rows(self, image: str, where: str, count: int = 1) -> _Rows | None:
        """Where to put detections of an image; None where the data set has no such image, which is counted."""
        if image not in self._found:
            self._found[image] = image if self._names is None else self._names.find(image)
        image_id = self._found[image]
        if image_id is None:
            self._first_left_out = self._first_left_out or f"{where}: {image!r}"
            self._left_out += count
            return None
        return self._rows.setdefault(image_id, _Rows())

    def finish(self) -> DetectionFile:
        """All that was put in.

        Raises:
            InputError: detections there were, but none of an image of the data set.
        """
        if self._left_out and not self._rows:
            raise InputError(
                f"{self._first_left_out} is not an image of the data that is scored, and no other image named here is; "
                "check --data and --split"
            )
        if self._left_out:
            images = sum(image_id is None for image_id in self._found.values())
            self.notes.append(
                f"{self._left_out} detections of {images} images that are not in the data that is scored are left out "
                f"(the first: {self._first_left_out})"
            )
        lowest, span = self._score_range()
        detections = {}
        for image_id, rows in self._rows.items():
            if not rows.scores:
                continue
            scores = (np.array(rows.scores, np.float64) - lowest) / span
            detections[image_id] = Detections(
                np.array(rows.boxes_xyxy, np.float32), scores.astype(np.float32), np.array(rows.labels, np.int64)
            )
        return DetectionFile(detections, tuple(self.notes))

    def _score_range(self) -> tuple[float, float]:
        """What to take from scores and divide them by. All protocols look at their order only."""
        ends = [(min(rows.scores), max(rows.scores)) for rows in self._rows.values() if rows.scores]
        lowest = min((low for low, _ in ends), default=0.0)
        highest = max((high for _, high in ends), default=1.0)
        if lowest >= 0 and highest <= 1:
            return 0.0, 1.0
        self.notes.append(f"{self._source}: scores from {lowest:g} to {highest:g} are stretched to 0..1; order is kept")
        return lowest, (highest - lowest) or 1.0
