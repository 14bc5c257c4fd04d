"""One training loop, its schedule and its checkpoints."""

from tinydet.training.checkpoint import CheckpointInfo, load_checkpoint, load_weights, save_checkpoint
from tinydet.training.loop import TrainingResult, train
from tinydet.training.schedule import Schedule
from tinydet.training.steps import DetectionStep, Step
from tinydet.training.validation import Validate, Validation, detect_samples

__all__ = [
    "CheckpointInfo",
    "DetectionStep",
    "Schedule",
    "Step",
    "TrainingResult",
    "Validate",
    "Validation",
    "detect_samples",
    "load_checkpoint",
    "load_weights",
    "save_checkpoint",
    "train",
]
