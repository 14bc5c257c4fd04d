"""What detectors cost, side by side: bytes, parameters, multiply-adds, milliseconds by stage, start time, memory.

Times are taken in rounds, every detector once in each, so that whatever else the machine does falls on all alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tinydet.errors import InputError, TinydetError
from tinydet.loading import detector_for
from tinydet.machine import installed_versions, this_machine
from tinydet.runtime.decoding import decode
from tinydet.runtime.description import ModelDescription

STAGES = ("decode", "preprocess", "network", "postprocess", "total")


@dataclass(frozen=True)
class BenchmarkConfig:
    """How to measure.

    Attributes:
        rounds: every model runs every image once in each; two rounds before these are not counted.
        threads: each number is measured by itself.
        engine: `auto`, `onnxruntime` or `openvino`, for exported files.
        unlike: allow models of other classes, resizing or proposals side by side.
    """

    rounds: int = 20
    threads: tuple[int, ...] = (1,)
    engine: str = "auto"
    unlike: bool = False


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds an image. Attributes: middle, and the first and third quartile, over all rounds and images."""

    median_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class ModelFigures:
    """One model.

    Attributes:
        times: for each number of threads, by stage.
        start_ms: from a new process to the first detections, importing included; None where it was not measured.
        peak_memory_bytes: of that process.
        detections: on all images together.
        accuracy: by metric, where it was measured.
    """

    path: str
    engine: str
    file_bytes: int
    description: ModelDescription
    times: dict[int, dict[str, StageTimes]]
    start_ms: float | None
    peak_memory_bytes: int | None
    detections: int
    accuracy: dict[str, float]

    def as_plain(self) -> dict[str, Any]:
        """What JSON can hold."""
        about = self.description
        return {
            "model": self.path,
            "engine": self.engine,
            "detector": about.detector,
            "file_bytes": self.file_bytes,
            "parameters": about.parameters,
            "multiply_adds": about.multiply_adds or None,  # a file may come from elsewhere and not say
            "multiply_adds_input_hw": list(about.input_hw) if about.multiply_adds else None,
            "times_ms": {
                str(threads): {stage: asdict(times) for stage, times in stages.items()}
                for threads, stages in self.times.items()
            },
            "start_ms": self.start_ms,
            "peak_memory_bytes": self.peak_memory_bytes,
            "detections": self.detections,
            "accuracy": self.accuracy,
        }


def benchmark(
    models: Sequence[str | os.PathLike[str]],
    images: Sequence[Path],
    config: BenchmarkConfig = BenchmarkConfig(),
    progress: Callable[[str], None] = lambda _: None,
) -> list[ModelFigures]:
    """Measure checkpoints, ONNX files and packed files side by side.

    Args:
        images: files to read; each model decodes them itself.
        progress: told what is being done.

    Raises:
        InputError: a model or an image cannot be read, or the models are unlike and `config.unlike` is not set.
    """
    if not models or not images:
        raise InputError("a benchmark needs at least one model and one image")
    wanted: Any = config.engine
    progress("loading")
    contents = [path.read_bytes() for path in images]
    descriptions = [_description(model) for model in models]
    if not config.unlike:
        _refuse_unlike(models, descriptions)
    times: list[dict[int, dict[str, StageTimes]]] = [{} for _ in models]
    counts, engines = [0] * len(models), [""] * len(models)
    for threads in config.threads:
        detectors = [detector_for(model, wanted, threads) for model in models]
        engines = [detector.engine for detector in detectors]
        progress(f"{config.rounds} rounds on {threads} thread{'s' if threads > 1 else ''}")
        measured, counts = _rounds(detectors, contents, config.rounds)
        for own, stages in zip(times, measured):
            own[threads] = {stage: _spread(values) for stage, values in stages.items()}
    figures = []
    for model, about, own, count, engine in zip(models, descriptions, times, counts, engines):
        progress(f"{Path(model).name}: start and memory in a process of its own")
        start_ms, memory = _fresh_process(model, images[0], engine, config.threads[0])
        size = _bytes_on_disk(Path(model))
        figures.append(ModelFigures(os.fspath(model), engine, size, about, own, start_ms, memory, count, {}))
    return figures


def machine_plain() -> dict[str, Any]:
    """Where the figures come from."""
    return {"machine": str(this_machine()), "versions": installed_versions()}


def _description(model: str | os.PathLike[str]) -> ModelDescription:
    if Path(model).is_dir():
        return detector_for(model).description
    from tinydet.runtime import read_model

    return read_model(model).description


def _refuse_unlike(models: Sequence[str | os.PathLike[str]], descriptions: list[ModelDescription]) -> None:
    first = descriptions[0]
    for model, other in zip(models[1:], descriptions[1:]):
        differences = [
            f"{what}: {one} and {two}"
            for what, one, two in (
                ("classes", ", ".join(first.classes), ", ".join(other.classes)),
                ("input", _input_of(first), _input_of(other)),
                ("regions", first.regions, other.regions),
                ("score threshold", first.score_threshold, other.score_threshold),
                ("detections at most", first.most, other.most),
            )
            if one != two
        ]
        if differences:
            raise InputError(
                f"{os.fspath(models[0])} and {os.fspath(model)} are not alike ({'; '.join(differences)}); --unlike "
                "measures them all the same"
            )


def _input_of(about: ModelDescription) -> str:
    image = about.preprocessing
    size = image.fixed_size_hw or f"shorter side {image.shorter_side}, longer at most {image.longer_side}"
    return f"{size}, {image.channels}"


def _rounds(detectors: list[Any], contents: list[bytes], rounds: int) -> tuple[list[dict[str, list[float]]], list[int]]:
    measured: list[dict[str, list[float]]] = [{stage: [] for stage in STAGES} for _ in detectors]
    counts = [0] * len(detectors)
    for round_number in range(rounds + 2):
        for content in contents:
            for index, (detector, stages) in enumerate(zip(detectors, measured)):
                steps, found = _timed(detector, content)
                if round_number >= 2:
                    for stage, value in zip(STAGES, [*steps, sum(steps)]):
                        stages[stage].append(value)
                elif round_number == 0:
                    counts[index] += found
    return measured, counts


def _timed(detector: Any, content: bytes) -> tuple[list[float], int]:
    """Milliseconds of the four steps, and the number of detections."""
    marks = [time.perf_counter()]
    pixels = decode(content)
    marks.append(time.perf_counter())
    prepared = detector.prepare(pixels)
    marks.append(time.perf_counter())
    raw = detector.run(prepared)
    marks.append(time.perf_counter())
    found = detector.finish(raw, pixels)
    marks.append(time.perf_counter())
    return [1000 * (after - before) for before, after in pairwise(marks)], len(found)


def _spread(values: list[float]) -> StageTimes:
    if len(values) < 2:
        return StageTimes(values[0], values[0], values[0])
    low, _, high = quantiles(values, n=4, method="inclusive")
    return StageTimes(median(values), low, high)


def _bytes_on_disk(path: Path) -> int:
    """Of a file; of a checkpoint its weights, the one thing that has to be carried."""
    if not path.is_dir():
        return path.stat().st_size
    from tinydet.training.checkpoint import checkpoint_in

    return (checkpoint_in(path) / "model.safetensors").stat().st_size


_CHILD = """
import json, sys, time
began = time.perf_counter()
model, image, engine, threads = sys.argv[1:]
from pathlib import Path
if Path(model).is_dir():
    from tinydet.loading import detector_for
    detector = detector_for(model, threads=int(threads))
else:
    from tinydet import Detector
    detector = Detector(model, engine, int(threads))
detector(image)
ended = time.perf_counter()
try:
    import resource
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        memory = int(lines["VmHWM"].split()[0]) * 1024
except (ImportError, KeyError):
    memory = None
print(json.dumps({"start_ms": 1000 * (ended - began), "memory": memory}))
"""


def _fresh_process(
    model: str | os.PathLike[str], image: Path, engine: str, threads: int, times: int = 3
) -> tuple[float, int | None]:
    """The median start time and the peak memory of new processes that import, load and detect once."""
    starts, memories = [], []
    for _ in range(times):
        command = [sys.executable, "-c", _CHILD, os.fspath(model), os.fspath(image), engine, str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise TinydetError(f"{os.fspath(model)} failed in a process of its own: {done.stderr.strip()[-500:]}")
        figures = json.loads(done.stdout.splitlines()[-1])
        starts.append(figures["start_ms"])
        memories.append(figures["memory"])
    return median(starts), None if None in memories else max(memories)
