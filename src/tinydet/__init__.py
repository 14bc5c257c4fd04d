"""tinydet: object detectors small enough for devices where a normal detector cannot go.

Names are loaded when first used, so that `import tinydet` costs nothing and never needs PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Annotations": "tinydet.records",
    "Dataset": "tinydet.records",
    "Detections": "tinydet.records",
    "Sample": "tinydet.records",
    "open_dataset": "tinydet.datasets",
    "Detector": "tinydet.runtime",
}
__all__ = ["Annotations", "Dataset", "Detections", "Detector", "Sample", "__version__", "open_dataset"]

if TYPE_CHECKING:
    from tinydet.datasets import open_dataset
    from tinydet.records import Annotations, Dataset, Detections, Sample
    from tinydet.runtime import Detector


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'tinydet' has no attribute {name!r}")
