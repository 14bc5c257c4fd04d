"""What compression has done to a detector: its size before and after, and the list that a checkpoint carries on.

Training on from a compressed detector keeps what the list says: `KeptCompression`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinydet.complexity import measure_complexity
from tinydet.config import to_plain
from tinydet.packed import PackedFile, pack
from tinydet.prune.fine_tuning import MaskedStep
from tinydet.prune.layers import layer_sparsities, sparsity_of
from tinydet.sharing import SharedStep

_STATED_HW = (600, 1000)
"""Multiply-adds are counted for an image of this shape, resized as the detector would."""


@dataclass(frozen=True)
class DetectorSize:
    """Attributes:
    nonzero_weights: of `parameters`, those that are not zero.
    multiply_adds: of one image of `input_hw`; those with zeros count too.
    packed_bytes: of a packed file of all tensors, without a graph.
    """

    parameters: int
    nonzero_weights: int
    multiply_adds: int
    input_hw: tuple[int, int]
    packed_bytes: int


def measure_size(detector: Any) -> DetectorSize:
    """Measure a detector, which stays as it is."""
    preprocessing = detector.config.preprocessing
    input_hw = preprocessing.fixed_size_hw or preprocessing.resized_hw(_STATED_HW)
    tensors = {name: tensor.detach().cpu().numpy() for name, tensor in detector.state_dict().items()}
    return DetectorSize(
        sum(parameter.numel() for parameter in detector.parameters()),
        sum(int(parameter.count_nonzero()) for parameter in detector.parameters()),
        measure_complexity(detector, input_hw).multiply_adds,
        input_hw,
        len(pack(PackedFile(tensors=tensors))),
    )


def compressed_run(
    run: Mapping[str, Any], step: str, config: Any, metrics: Mapping[str, Any], **figures: Any
) -> dict[str, Any]:
    """A checkpoint's `run` after one more step of compression: its `compression` lists all of them in their order.

    Args:
        run: of the checkpoint that was compressed.
        metrics: of that checkpoint, kept as `metrics_before`.
        figures: what else is worth keeping.
    """
    entry = {"step": step, "config": to_plain(config), "metrics_before": dict(metrics), **figures}
    kept = {name: value for name, value in run.items() if name != "training"}
    return {**kept, "compression": [*run.get("compression", []), to_plain(entry)]}


@dataclass(frozen=True)
class KeptCompression:
    """What training on from a checkpoint must not undo.

    Attributes:
        steps: the checkpoint's `compression`: what was done to its weights, in order.
        int8_aware: its last training was in int8 (`QuantizationAwareStep`).
    """

    steps: tuple[Any, ...] = ()
    int8_aware: bool = False

    @classmethod
    def of_run(cls, run: Mapping[str, Any]) -> KeptCompression:
        """Of a checkpoint's `run`."""
        recorded = run.get("compression", ())
        steps = tuple(recorded) if isinstance(recorded, Sequence) and not isinstance(recorded, str) else ()
        return cls(steps, _trained_in_int8(run.get("training")))

    def did(self, step: str) -> bool:
        return any(isinstance(entry, Mapping) and entry.get("step") == step for entry in self.steps)

    def keeping(self, step: Any) -> tuple[Any, list[str]]:
        """The step, in which pruned weights stay zero and shared ones go on sharing; and what is to be said of it."""
        said = []
        if self.did("share"):
            try:
                step = SharedStep(step)
                said.append("its weights were shared: each layer keeps its few values, which learn")
            except ValueError:
                said.append("its weights were shared, but no layer has few values any more: `tinydet share` it again")
        rows = layer_sparsities(step.detector)
        zeros = sum(row.zeros for row in rows)
        if self.did("prune") and zeros:
            step = MaskedStep(step)
            said.append(f"it was pruned: its {zeros:,} zero weights ({sparsity_of(rows):.1%}) stay zero")
        if self.int8_aware:
            said.append(
                "it was fine-tuned for int8, and this training is not: fine-tune again with `tinydet quantize --aware`"
            )
        return step, said


def _trained_in_int8(training: Any) -> bool:
    """Whether the step that a checkpoint describes is, or wraps, a quantization-aware one."""
    step = training.get("step") if isinstance(training, Mapping) else None
    while isinstance(step, Mapping):
        if step.get("type") == "QuantizationAwareStep":
            return True
        config = step.get("config")
        step = config.get("step") if isinstance(config, Mapping) else None
    return False
