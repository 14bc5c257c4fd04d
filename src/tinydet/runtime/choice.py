"""Which engine is fastest for a model on this machine: measured once, then remembered."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tinydet.files import write_json
from tinydet.machine import this_machine
from tinydet.preprocessing import Preprocessing
from tinydet.runtime.engines import Engine, OnnxRuntimeEngine, OpenVinoEngine
from tinydet.runtime.model_file import ModelFile

_ROUNDS = 7
_TYPICAL_HW = (480, 640)


def fastest_engine(model: ModelFile, threads: int | None) -> Engine:
    """The engine that was fastest when this model was first run here with so many threads."""
    if util.find_spec("openvino") is None:
        return OnnxRuntimeEngine(model.onnx, threads)
    makers: dict[str, Callable[[], Engine]] = {
        "onnxruntime": lambda: OnnxRuntimeEngine(model.onnx, threads),
        "openvino": lambda: OpenVinoEngine(model.onnx, threads),
    }
    key = _key(model, threads)
    remembered = _remembered()
    if isinstance(name := remembered.get(key), str) and name in makers:
        return makers[name]()
    engines = [make() for make in makers.values()]
    best = _fastest(engines, model.description.preprocessing)
    _remember(remembered | {key: best.name})
    return best


def _fastest(engines: list[Engine], preprocessing: Preprocessing) -> Engine:
    height, width = preprocessing.resized_hw(_TYPICAL_HW)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, preprocessing.channel_count), np.uint8)
    times: list[list[float]] = [[] for _ in engines]
    for engine in engines:
        if isinstance(engine, OpenVinoEngine):
            engine.settle(pixels.shape)
    for round_number in range(_ROUNDS + 1):
        for engine, own in zip(engines, times):
            start = time.perf_counter()
            engine(pixels)
            if round_number:  # the first one warms up
                own.append(time.perf_counter() - start)
    return min(zip(engines, times), key=lambda pair: median(pair[1]))[0]


def _key(model: ModelFile, threads: int | None) -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("onnxruntime", "openvino"))
    return f"{model.sha256}; threads {threads}; {versions}; {this_machine()}"


def _cache_file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "tinydet" / "engines.json"


def _remembered() -> dict[str, Any]:
    try:
        content = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # nothing there, or no home
        return {}
    return content if isinstance(content, dict) else {}


def _remember(choices: dict[str, Any]) -> None:
    try:
        write_json(_cache_file(), choices)
    except Exception:  # a cache that cannot be written is only slower
        return
