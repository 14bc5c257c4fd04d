"""`tinydet detect`: images, folders, videos and cameras through a detector."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from tinydet.cli import app
from tinydet.errors import InputError, TinydetError

if TYPE_CHECKING:
    from tinydet.loading import AnyDetector
    from tinydet.records import Detections
    from tinydet.runtime.sources import Frame

_WAITING = 4  # decoded images that may wait for the detector


@app.command()
def detect(
    model: Annotated[Path, typer.Argument(help="An .onnx or .tinydet file, or a checkpoint's folder.")],
    sources: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Images, folders, videos; a camera's number or RTSP URL.")
    ],
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write one JSON object a line and image; - for stdout."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write every image with its boxes drawn.")] = None,
    score: Annotated[float | None, typer.Option(min=0, max=1, help="Only what scores at least this.")] = None,
    classes: Annotated[str | None, typer.Option(metavar="A,B", help="Only these classes.")] = None,
    most: Annotated[int | None, typer.Option(min=1, help="At most so many an image, the best.")] = None,
    engine: Annotated[str, typer.Option(help="auto, onnxruntime or openvino.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Of the engine; all cores by default.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on looking into the folders for new images.")] = False,
) -> None:
    """Detect in images, folders, videos and cameras.

    Reading and decoding run in a thread of their own, ahead of the detector. An image that cannot be read is a warning;
    a camera that drops out is tried again, after longer and longer pauses. Ctrl-C ends what has no end.

    Examples:

    `tinydet detect student.tinydet photo.jpg holiday/ --out drawn --json found.jsonl`

    `tinydet detect student.tinydet rtsp://camera.local/stream --score 0.5 --classes fox,badger --json -`

    `tinydet detect student.tinydet inbox/ --watch --json found.jsonl`
    """
    from tinydet.runtime.ahead import Ahead
    from tinydet.runtime.sources import SourceConfig, Unreadable, frames, is_camera

    detector = _detector(model, engine, threads, score, classes, most)
    camera = any(is_camera(source) for source in sources)
    counts = _Counts()
    ahead = Ahead(frames(sources, SourceConfig(watch=watch)), _WAITING, newest=camera)
    with ExitStack() as stack:
        lines = stack.enter_context(_lines(json_file)) if json_file else None
        try:
            for frame in ahead:
                if isinstance(frame, Unreadable):
                    counts.unreadable += not frame.again
                    typer.echo(f"warning: {frame.message}", err=True)
                    continue
                _show(frame, detector(frame.pixels), detector.classes, lines, out, quiet=str(json_file) == "-")
                counts.done += 1
        except KeyboardInterrupt:
            typer.echo("tinydet: stopped", err=True)
    _finish(counts, ahead.dropped)


class _Counts:
    done = 0
    unreadable = 0


def _finish(counts: _Counts, dropped: int) -> None:
    if dropped:
        typer.echo(f"{dropped} frames of the camera were passed over, because detection is slower than it", err=True)
    if counts.unreadable:
        typer.echo(f"warning: {counts.unreadable} of {counts.unreadable + counts.done} could not be read", err=True)
    if not counts.done and counts.unreadable:
        raise TinydetError("none of the images could be read")
    if not counts.done:
        raise InputError("there is no image in what was given")


def _detector(
    model: Path, engine: str, threads: int | None, score: float | None, classes: str | None, most: int | None
) -> AnyDetector:
    names = None if classes is None else [name.strip() for name in classes.split(",")]
    if model.is_dir():
        from tinydet.loading import detector_for

        return _Chosen(detector_for(model, threads=threads), score, names, most)
    from tinydet.runtime import Detector

    wanted: Any = engine
    return Detector(model, wanted, threads, score, names, most)


class _Chosen:
    """A checkpoint's detections, thinned out as `Detector` does by itself."""

    def __init__(self, detector: Any, score: float | None, names: list[str] | None, most: int | None) -> None:
        from tinydet.runtime.detector import labels_of

        self.detector, self.score, self.most = detector, score or 0.0, most
        self.labels = labels_of(names, detector.classes)
        self.classes, self.engine, self.description = detector.classes, detector.engine, detector.description

    def __call__(self, image: Any, /) -> Detections:
        found = self.detector(image).above(self.score)
        return (found if self.labels is None else found.of_labels(self.labels))[: self.most]


def _show(
    frame: Frame, found: Detections, classes: tuple[str, ...], lines: TextIO | None, out: Path | None, quiet: bool
) -> None:
    if lines is not None:
        place = {} if frame.number is None else {"frame": frame.number, "seconds": round(frame.seconds or 0.0, 3)}
        size = {"size_hw": list(frame.pixels.shape[:2])}
        entry = {"image": frame.source, **place, **size, "detections": found.as_dicts(classes)}
        print(json.dumps(entry, ensure_ascii=False), file=lines, flush=True)
    if out is not None:
        _draw(frame, found, classes, out)
    if not quiet:
        number = "" if frame.number is None else f" frame {frame.number}"
        what = ", ".join(f"{classes[label]} {score:.2f}" for label, score in zip(found.labels, found.scores))
        typer.echo(f"{frame.source}{number}: {what or 'nothing'}")


def _draw(frame: Frame, found: Detections, classes: tuple[str, ...], out: Path) -> None:
    from PIL import Image

    from tinydet.drawing import draw_detections
    from tinydet.files import replacing

    stem = "".join(c if c.isalnum() or c in "-._" else "_" for c in Path(frame.source).stem) or "camera"
    name = f"{stem}.jpg" if frame.number is None else f"{stem}_{frame.number:06d}.jpg"
    with replacing(_free(out / name, frame)) as temporary:
        draw_detections(Image.fromarray(frame.pixels), found, classes).save(temporary, "JPEG", quality=92)


_drawn_from: dict[Path, str] = {}


def _free(path: Path, frame: Frame) -> Path:
    """The path itself, or one with a number where an image of the same name from elsewhere was drawn there."""
    candidate, number = path, 1
    while _drawn_from.setdefault(candidate, frame.source) != frame.source:
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate


@contextmanager
def _lines(path: Path) -> Iterator[TextIO]:
    if str(path) == "-":
        yield sys.stdout
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115  line by line: a camera never ends
    except OSError as error:
        raise TinydetError(f"cannot write {path}: {error.strerror or error}") from error
    with file:
        yield file
