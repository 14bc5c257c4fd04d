"""The command line: a thin table of ordinary functions.

Each module here holds the verbs of one part of tinydet and imports that part inside the verb, so that `tinydet --help`
starts at once and the verbs that need no PyTorch run without it.
"""

from __future__ import annotations

import io
import sys
import threading

import typer

from tinydet.errors import MissingExtraError, TinydetError

app = typer.Typer(
    name="tinydet",
    help="Object detectors small enough for devices where a normal detector cannot go.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_TRAINING_PACKAGES = frozenset(
    ("torch", "torchvision", "lightning_fabric", "safetensors", "onnx", "onnxscript", "onnxslim", "sklearn")
)


def _register_verbs() -> None:
    """Importing a verb module adds its verbs to `app`, in the order that `--help` shows them."""
    from tinydet.cli import (  # noqa: F401
        benchmark,
        complexity,
        compress,
        data,
        detect,
        distill,
        evaluate,
        export,
        mismatch,
        packed,
        pretrain,
        quantize,
        report,
        run,
        score,
        train,
    )


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    """TensorBoard's writing thread meets a full disk first; the next call raises the same error, which is shown."""
    if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard")):
        threading.__excepthook__(args)


def main() -> None:
    """Run the command line. A user's mistake is one clear message and an exit status, never a traceback."""
    _register_verbs()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that the terminal cannot show
    threading.excepthook = _thread_failed
    try:
        app()
    except TinydetError as error:
        print(f"tinydet: error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _TRAINING_PACKAGES:
            raise
        missing = MissingExtraError(f"this command ({error.name} is missing)", "train")
        print(f"tinydet: error: {missing}", file=sys.stderr)
        raise SystemExit(missing.exit_status) from None
    except (OSError, MemoryError) as error:  # such as a full disk
        print(f"tinydet: error: {error or 'out of memory'}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("tinydet: stopped", file=sys.stderr)
        raise SystemExit(130) from None
