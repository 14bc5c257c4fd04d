"""Where images come from: files, folders that may grow, videos, and cameras that may drop out."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinydet.errors import InputError, MissingExtraError
from tinydet.runtime.decoding import Pixels, decode

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"))
VIDEO_SUFFIXES = frozenset((".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv"))
_STREAM_SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://")


@dataclass(frozen=True, eq=False)
class Frame:
    """One image.

    Attributes:
        source: the file, or the camera's number or address.
        number: of the frame within a video or camera, from 0; None for an image file.
        seconds: from the video's start, or since 1970 for a camera; None for an image file.
        pixels: `[H, W, 3]` uint8 RGB.
    """

    source: str
    pixels: Pixels
    number: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Unreadable:
    """Something that should have been an image.

    Attributes:
        message: what is wrong, in words; it names the source.
        again: the source is tried again.
    """

    source: str
    message: str
    again: bool = False


@dataclass(frozen=True)
class SourceConfig:
    """How sources are followed.

    Attributes:
        watch: go on looking into folders for new images, for ever.
        poll_s: seconds between two looks; a file is taken once its size has not changed from one to the next.
        first_retry_s, last_retry_s: a camera that drops out is tried again after the first, then twice as long, up to
            the last; for ever.
    """

    watch: bool = False
    poll_s: float = 0.5
    first_retry_s: float = 1.0
    last_retry_s: float = 30.0
    sleep: Callable[[float], None] = field(default=time.sleep, compare=False)


def is_camera(source: str) -> bool:
    """A number or an address: something without an end."""
    return source.isdigit() or source.startswith(_STREAM_SCHEMES)


def frames(sources: list[str], config: SourceConfig = SourceConfig()) -> Iterator[Frame | Unreadable]:
    """Every image of every source, one source after another; watched folders come last, together.

    Raises:
        InputError: there is no such file or folder, or more than one source that never ends.
        MissingExtraError: a video or a camera, and OpenCV is not installed.
    """
    endless = [source for source in sources if is_camera(source)]
    folders = [Path(source) for source in sources if not is_camera(source) and Path(source).is_dir()]
    for source in sources:
        if not is_camera(source) and not Path(source).exists():
            raise InputError(f"{source}: no such image, video or folder")
    if len(endless) > 1 or (endless and config.watch):
        raise InputError(
            f"one source without an end at a time, not {', '.join(endless)}{' and --watch' * config.watch}"
        )
    if config.watch and not folders:
        raise InputError("there is no folder to watch among the sources")
    for source in sources:
        if source in endless:
            continue
        path = Path(source)
        if path.is_dir():
            if not config.watch:
                yield from _images(images_in(path))
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            yield from _video(path)
        else:
            yield from _images([path])
    if config.watch:
        yield from _growing(folders, config)
    for source in endless:
        yield from _camera(source, config)


def images_in(folder: Path) -> list[Path]:
    """The image files in a folder and in those within it, sorted; hidden and unfinished ones left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _images(paths: list[Path]) -> Iterator[Frame | Unreadable]:
    for path in paths:
        try:
            yield Frame(str(path), decode(path))
        except InputError as error:
            yield Unreadable(str(path), str(error))


def _growing(folders: list[Path], config: SourceConfig) -> Iterator[Frame | Unreadable]:
    done: set[Path] = set()
    sizes: dict[Path, int] = {}
    while True:
        ready = []
        for folder in folders:
            for path in images_in(folder):
                if path in done:
                    continue
                try:
                    size = path.stat().st_size
                except OSError:  # gone again
                    continue
                if sizes.get(path) == size and size:
                    ready.append(path)
                    done.add(path)
                    del sizes[path]
                else:
                    sizes[path] = size
        yield from _images(ready)
        config.sleep(config.poll_s)


def _video(path: Path) -> Iterator[Frame | Unreadable]:
    cv2 = _opencv("a video")
    capture = cv2.VideoCapture(str(path))
    try:
        number = 0
        rate = capture.get(cv2.CAP_PROP_FPS) or 0.0
        while (pixels := _read(cv2, capture)) is not None:
            seconds = number / rate if rate > 0 else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield Frame(str(path), pixels, number, seconds)
            number += 1
        if number == 0:
            yield Unreadable(str(path), f"{path}: not a readable video: it has no frame that OpenCV can decode")
    finally:
        capture.release()


def _camera(source: str, config: SourceConfig) -> Iterator[Frame | Unreadable]:
    cv2 = _opencv("a camera")
    number, wait = 0, config.first_retry_s
    while True:
        capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
        try:
            while (pixels := _read(cv2, capture)) is not None:
                wait = config.first_retry_s
                yield Frame(source, pixels, number, time.time())
                number += 1
        finally:
            capture.release()
        yield Unreadable(source, f"camera {source} gives no picture; trying again in {wait:g} s", again=True)
        config.sleep(wait)
        wait = min(2 * wait, config.last_retry_s)


def _read(cv2: Any, capture: Any) -> Pixels | None:
    there, pixels = capture.read()
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if there and pixels is not None else None


def _opencv(what: str) -> Any:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # its own warnings say nothing that ours do not
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8" if sys.platform != "win32" else "0")
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError(what, "video") from error
    return cv2
