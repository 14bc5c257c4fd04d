"""What prune, share and quantize start from: a checkpoint, and never a file that was exported from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinydet.errors import InputError

_EXPORTED = (".tinydet", ".onnx")


def open_compressible(model: Path) -> tuple[Any, Any]:
    """The detector of a checkpoint, and what the checkpoint says of itself.

    Raises:
        InputError: there is none, or this is an exported file.
    """
    from tinydet.training.checkpoint import load_checkpoint

    if model.suffix.lower() in _EXPORTED and not model.is_dir():
        raise InputError(
            f"{model}: an exported file, in which weights can no longer be changed (int8 ends a chain); give the "
            "folder of the checkpoint that it was made from"
        )
    return load_checkpoint(model)


def refuse_shared(model: Path, info: Any) -> None:
    """Before a way of pruning that makes new weights.

    Raises:
        InputError: the checkpoint's weights are shared.
    """
    from tinydet.compression import KeptCompression

    if KeptCompression.of_run(info.extra).did("share"):
        raise InputError(
            f"{model}: its weights are shared, and --method taylor, lasso and --gradual make new ones: prune first, "
            "then share; or prune by --method l1, ln or random, which leaves the values as they are"
        )
