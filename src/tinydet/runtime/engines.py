"""What runs the graph. An engine takes pixels and gives boxes, scores and labels."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tinydet.errors import InputError, MissingExtraError, TinydetError
from tinydet.preprocessing import Preprocessing
from tinydet.runtime.resizing import SIZE

Arrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
OUTPUTS = ("boxes", "scores", "labels")
_MOST_OWN_SIZES = 8  # graphs that OpenVINO compiles for one size each, a third of a second and some megabytes apiece


class Engine(Protocol):
    name: str

    def __call__(self, pixels: NDArray[np.uint8]) -> Arrays:
        """`[H, W, C]` to `[N, 4]` boxes in these pixels, `[N]` scores and `[N]` labels."""
        ...


class OnnxRuntimeEngine:
    """onnxruntime on the CPU.

    Args:
        model: a serialized ONNX model.
        threads: None takes all cores.
        resizing: for a model made by `with_resize`: what to resize images to.
    """

    name = "onnxruntime"

    def __init__(self, model: bytes, threads: int | None = None, resizing: Preprocessing | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or _cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that wait by spinning gain a little latency, and cost whoever shares the machine a core each.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions have no common base but Exception
            raise InputError(f"onnxruntime cannot load the model: {error}") from error
        found = {output.name for output in self._session.get_outputs()}
        if not found.issuperset(OUTPUTS):
            raise InputError(f"the graph has outputs {sorted(found)}, expected {', '.join(OUTPUTS)}")

        self._resizing = resizing

    def __call__(self, pixels: NDArray[np.uint8]) -> Arrays:
        inputs: dict[str, Any] = {"image": pixels[None]}
        if self._resizing is not None:
            height, width, channels = pixels.shape
            inputs[SIZE] = np.array([1, channels, *self._resizing.resized_hw((height, width))], np.int64)
        try:
            found: Any = self._session.run(OUTPUTS, inputs)
        except Exception as error:
            raise TinydetError(f"onnxruntime failed on an image of {pixels.shape}: {error}") from error
        return tuple(found)  # type: ignore[return-value]


class OpenVinoEngine:
    """OpenVINO on the CPU, in the precision of the file: its default would be bfloat16 where the processor has it.

    A graph for images of any size is a quarter slower than one for a single size, whose buffers and order of axes are
    settled when it is compiled. So a size that comes often gets a graph of its own; images of a video all have one.

    Args:
        often: images of one size until that is done.
    """

    name = "openvino"

    def __init__(self, model: bytes, threads: int | None = None, often: int = 16) -> None:
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("the OpenVINO engine", "openvino") from error
        self._core = openvino.Core()
        self._options = {
            "INFERENCE_NUM_THREADS": threads or _cores(),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            self._model = self._core.read_model(model)
            self._any_size = self._compiled(self._model)
        except RuntimeError as error:
            raise InputError(f"OpenVINO cannot load the model: {error}") from error
        self._takes_any_size = self._model.input("image").partial_shape.is_dynamic
        self._often = often
        self._seen: Counter[tuple[int, ...]] = Counter()
        self._own: dict[tuple[int, ...], Any] = {}

    def __call__(self, pixels: NDArray[np.uint8]) -> Arrays:
        request = self._request_for(pixels.shape)
        try:
            found = request.infer({"image": pixels[None]}, share_inputs=True)
        except RuntimeError as error:
            raise TinydetError(f"OpenVINO failed on an image of {pixels.shape}: {error}") from error
        boxes, scores, labels = (np.array(found[name]) for name in OUTPUTS)
        return boxes.reshape(-1, 4), scores, labels

    @property
    def own_sizes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of images that have a graph of their own."""
        return tuple(self._own)

    def settle(self, shape: tuple[int, ...]) -> None:
        """Compile a graph for images of this shape, `(H, W, C)`, as many images of it would."""
        if shape not in self._own and self._takes_any_size:
            model = self._model.clone()
            try:
                model.reshape({"image": [1, *shape]})
                self._own[shape] = self._compiled(model)
            except RuntimeError:
                self._own[shape] = self._any_size  # what served so far still does

    def _request_for(self, shape: tuple[int, ...]) -> Any:
        """The infer request that suits images of this shape best."""
        own = self._own.get(shape)
        if own is None and self._takes_any_size and len(self._own) < _MOST_OWN_SIZES:
            self._seen[shape] += 1
            if self._seen[shape] > self._often:
                self.settle(shape)
        return self._own.get(shape, self._any_size)

    def _compiled(self, model: Any) -> Any:
        return self._core.compile_model(model, "CPU", self._options).create_infer_request()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
