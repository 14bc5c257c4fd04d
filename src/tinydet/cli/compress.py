"""`tinydet prune` and `tinydet share`: a checkpoint in, a smaller one out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer

from tinydet.cli import app
from tinydet.cli.compression_tables import compared, print_table, show_pruned
from tinydet.cli.training_options import (
    TRAINING,
    BatchSize,
    ClipNorm,
    Device,
    Flip,
    JsonFile,
    LearningRate,
    ProtocolName,
    Seed,
    TestSplit,
    TrainSplit,
)
from tinydet.errors import InputError

Model = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="The trained detector: a checkpoint's folder or a run's.")
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder for the smaller checkpoint.")]
BlockNames = Annotated[
    str, typer.Option("--block", metavar="A,B", help="backbone, proposals, heads, several of them, or all.")
]
DataPath = Annotated[
    str | None,
    typer.Option("--data", metavar="PATH", help="Data set to fine-tune and to measure on.", rich_help_panel=TRAINING),
]
FineTuning = Annotated[
    int, typer.Option("--iterations", min=0, metavar="N", help="Steps of fine-tuning.", rich_help_panel=TRAINING)
]


@app.command()
def prune(
    model: Model,
    out: Out,
    block: BlockNames = "backbone",
    method: Annotated[
        str, typer.Option(metavar="NAME", help="l1, ln, random; taylor or lasso, which take channels out by --data.")
    ] = "l1",
    sparsity: Annotated[float, typer.Option(metavar="X", help="Share that goes, from 0 to 1.")] = 0.3,
    structured: Annotated[bool, typer.Option("--structured", help="Whole channels instead of single weights.")] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take the channels out of the network; implies --structured.")
    ] = False,
    scope: Annotated[str, typer.Option(metavar="NAME", help="global: by block; local: each layer.")] = "global",
    order: Annotated[float, typer.Option("--norm-order", metavar="N", help="n of the Ln norm.")] = 2.0,
    dim: Annotated[int, typer.Option(help="Masked channels: 0 output, 1 input.")] = 0,
    to_width: Annotated[
        float | None, typer.Option(metavar="N", help="lasso: down to the sizes of the -1-N network, in all blocks.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="taylor: rounds of measuring, removing and fine-tuning.")] = 5,
    batches: Annotated[int, typer.Option(min=1, help="taylor, lasso: batches that are looked at.")] = 32,
    gradual: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="STAGES",
            help="Masks that grow in the fine-tuning's first half.",
            rich_help_panel=TRAINING,
        ),
    ] = 1,
    data: DataPath = None,
    train_split: TrainSplit = None,
    test_split: TestSplit = None,
    iterations: FineTuning = 0,
    learning_rate: LearningRate = 0.001,
    batch_size: BatchSize = 2,
    clip_norm: ClipNorm = 10.0,
    flip: Flip = 0.5,
    protocol: ProtocolName = "voc07",
    seed: Seed = 0,
    device: Device = "auto",
    json_file: JsonFile = None,
) -> None:
    """Prune a detector: zeros in its weights, or channels really taken out.

    Weights of convolutions and fully connected layers are pruned, in each block exactly the share asked for.

    `tinydet prune runs/student --out runs/sparse --block backbone --method l1 --sparsity 0.3`

    `tinydet prune runs/student --out runs/half --block all --sparsity 0.5 --remove --data BCCD --iterations 500`

    `tinydet prune runs/vgg4 --out runs/vgg32 --method lasso --to-width 32 --data VOCdevkit`
    """
    from tinydet.cli.compressible import open_compressible, refuse_shared
    from tinydet.cli.training_stage import checked, one_of
    from tinydet.prune.fine_tuning import GradualConfig
    from tinydet.prune.masks import PruneConfig
    from tinydet.prune.masks import prune as prune_masks
    from tinydet.prune.remove import remove_channels

    one_of("method", method, "l1", "ln", "random", "taylor", "lasso")
    one_of("scope", scope, "global", "local")
    job = _Job(
        _Places(model, out, data, train_split, test_split),
        _Settings(iterations, learning_rate, batch_size, clip_norm, flip, protocol, seed, device),
    )
    blocks = _blocks(block)
    if to_width is not None and method != "lasso":
        raise InputError(f"--to-width goes with --method lasso, not {method}")
    if gradual > 1 and (remove or method in ("taylor", "lasso") or not iterations):
        raise InputError("--gradual goes with masks and with fine-tuning (--iterations), not with channels taken out")
    detector, info = open_compressible(model)
    if method in ("taylor", "lasso") or gradual > 1:
        refuse_shared(model, info)
    if method == "taylor":
        smaller, report, config = _by_taylor(job, detector, blocks, sparsity, rounds, batches, scope)
    elif method == "lasso":
        smaller, report, config = _by_lasso(job, detector, blocks, sparsity, to_width, batches)
    else:
        config = checked(lambda: PruneConfig(sparsity, blocks, method, structured or remove, order, dim, scope, seed))  # type: ignore
        if gradual > 1:
            config = checked(lambda: GradualConfig(config, max(1, iterations // 2), gradual))
            smaller, report = detector, None
        else:
            smaller, report = remove_channels(detector, config) if remove else prune_masks(detector, config)
    fine_tuned = job.finish(smaller, "prune", config, info, config if gradual > 1 else None)
    show_pruned(fine_tuned, report)
    job.show(detector, fine_tuned, json_file)


@app.command()
def share(
    model: Model,
    out: Out,
    bits: Annotated[int, typer.Option(help="Of a code: each layer has at most 2 to this many values.")] = 4,
    block: BlockNames = "all",
    data: DataPath = None,
    train_split: TrainSplit = None,
    test_split: TestSplit = None,
    iterations: FineTuning = 0,
    learning_rate: LearningRate = 0.0001,
    batch_size: BatchSize = 2,
    clip_norm: ClipNorm = 10.0,
    flip: Flip = 0.5,
    protocol: ProtocolName = "voc07",
    seed: Seed = 0,
    device: Device = "auto",
    json_file: JsonFile = None,
) -> None:
    """Let the weights of each layer share few values, which a packed file stores as short codes.

    Weights that are zero stay zero. With --iterations the values learn, each by the sum of its weights' gradients.

    `tinydet share runs/sparse --out runs/shared --bits 4`

    `tinydet share runs/sparse --out runs/shared --bits 3 --data BCCD --iterations 500`
    """
    from tinydet.cli.compressible import open_compressible
    from tinydet.cli.training_stage import checked
    from tinydet.sharing import ShareConfig
    from tinydet.sharing import share as share_weights

    job = _Job(
        _Places(model, out, data, train_split, test_split),
        _Settings(iterations, learning_rate, batch_size, clip_norm, flip, protocol, seed, device),
    )
    config = checked(lambda: ShareConfig(bits, _blocks(block)))
    detector, info = open_compressible(model)
    shared, report = share_weights(detector, config)
    fine_tuned = job.finish(shared, "share", config, info)
    rows = [
        (row.layer, f"{row.weights:,}", f"{row.zeros:,}", str(row.values), f"{row.error:.4f}") for row in report.layers
    ]
    print_table(("layer", "weights", "zeros", "values", "relative change"), rows)
    job.show(detector, fine_tuned, json_file)


@dataclass(frozen=True)
class _Places:
    model: Path
    out: Path
    data: str | None
    train_split: str | None
    test_split: str | None


@dataclass(frozen=True)
class _Settings:
    iterations: int
    learning_rate: float
    batch_size: int
    clip_norm: float
    flip: float
    protocol: str
    seed: int
    device: str


class _Job:
    """What both verbs do around the compression: data, fine-tuning, measuring, writing, showing."""

    def __init__(self, places: _Places, settings: _Settings) -> None:
        from tinydet.cli.training_stage import open_splits

        self.model, self.out, self.settings, self.iterations = places.model, places.out, settings, settings.iterations
        if self.iterations and places.data is None:
            raise InputError("--iterations: fine-tuning needs --data")
        if self.iterations and (self.out / "config.json").exists():
            raise InputError(f"--out {self.out}: there is a checkpoint; take a new folder for the fine-tuning's run")
        if self.out.resolve() == self.model.resolve():
            raise InputError(f"--out {self.out}: this is the checkpoint to be compressed; take another folder")
        self.selection = None
        if places.data is not None:
            self.selection = open_splits(places.data, places.train_split, places.test_split)
        self.metrics: dict[str, Any] = {}

    @cached_property
    def training_samples(self) -> Any:
        """Every image is decoded once to find these, however many rounds of fine-tuning there are."""
        from tinydet.datasets import usable_samples

        if self.selection is None:
            raise InputError("--method taylor and lasso look at images: give --data")
        return usable_samples(self.selection.dataset, self.selection.train)

    def loader(self, detector: Any) -> Any:
        from tinydet.cli.training_stage import augmentation
        from tinydet.data.loader import make_loader

        samples = self.training_samples
        settings, augment = self.settings, augmentation(detector, self.settings.flip, None, None)
        return make_loader(samples, detector.config.preprocessing, settings.batch_size, augment, settings.seed)

    def train(self, step: Any, steps: int, out: Path, run: dict[str, Any], validated: bool) -> Any:
        from tinydet.cli.training_stage import one_of, training_schedule
        from tinydet.training.checkpoint import fingerprint
        from tinydet.training.loop import train as train_loop

        chosen = self.settings
        return train_loop(
            step,
            self.loader(step.detector),
            training_schedule(
                steps, chosen.learning_rate, "", 0, chosen.batch_size, chosen.clip_norm, ema=0.0, precision="32"
            ),
            out,
            validate=self.validate() if validated else None,
            device=one_of("device", chosen.device, "auto", "cpu", "cuda"),
            extra=run,
            origin={"start": fingerprint(self.model)},
            title=out.name,
        )

    def validate(self) -> Any:
        from tinydet.cli.training_stage import validation_on

        return validation_on(self.selection, self.settings.protocol)

    def finish(self, smaller: Any, name: str, config: Any, info: Any, gradual: Any = None) -> Any:
        """Fine-tune where asked for, write the checkpoint, and give its detector."""
        from tinydet.cli.option_values import checked
        from tinydet.compression import KeptCompression, compressed_run
        from tinydet.prune.fine_tuning import MaskedStep
        from tinydet.sharing import SharedStep
        from tinydet.training.checkpoint import load_checkpoint, save_checkpoint
        from tinydet.training.steps import DetectionStep

        if self.selection is not None and self.selection.dataset.classes != info.classes:
            raise InputError(
                f"{self.model}: detects {', '.join(info.classes)}; the data has "
                f"{', '.join(self.selection.dataset.classes)}"
            )
        run = compressed_run(info.extra, name, config, info.metrics, parent=str(self.model))
        if self.iterations:
            step: Any = DetectionStep(smaller)
            if KeptCompression.of_run(run).did("share"):
                step = checked(lambda: SharedStep(DetectionStep(smaller)))
            result = self.train(MaskedStep(step, gradual), self.iterations, self.out, run, validated=True)
            self.metrics = result.metrics
            return load_checkpoint(result.checkpoint)[0]
        if self.selection is not None:
            found = self.validate()(smaller)
            self.metrics = {"score": found.score, **found.metrics}
        save_checkpoint(self.out, smaller, metrics=self.metrics, extra=run)
        return smaller

    def show(self, before: Any, after: Any, json_file: Path | None) -> None:
        """Both sizes side by side."""
        from tinydet.compression import measure_size
        from tinydet.config import to_plain
        from tinydet.files import write_json
        from tinydet.prune.layers import layer_sparsities, sparsity_of

        sizes = measure_size(before), measure_size(after)
        layers = layer_sparsities(after)
        print_table(("", "before", "after", ""), compared(*sizes))
        shown = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items() if isinstance(value, float))
        typer.echo(f"{self.out}: {sparsity_of(layers):.2%} of all weights are zero{'; ' + shown if shown else ''}")
        if json_file is not None:
            content = {
                "checkpoint": str(self.out),
                "metrics": self.metrics,
                "sparsity": sparsity_of(layers),
                "before": to_plain(sizes[0]),
                "after": to_plain(sizes[1]),
                "layers": [to_plain(row) for row in layers],
            }
            write_json(json_file, content)


def _by_taylor(
    job: _Job, detector: Any, blocks: Any, sparsity: float, rounds: int, batches: int, scope: str
) -> tuple[Any, Any, Any]:
    """Rounds of removal; after each but the last, which `finish` does, a share of the fine-tuning."""
    from tinydet.cli.training_stage import checked
    from tinydet.prune.fine_tuning import MaskedStep
    from tinydet.prune.taylor import TaylorConfig, prune_by_taylor
    from tinydet.training.checkpoint import load_checkpoint
    from tinydet.training.steps import DetectionStep

    config = checked(lambda: TaylorConfig(sparsity, blocks, rounds, batches, scope, job.settings.seed))  # type: ignore[arg-type]
    loader = job.loader(detector)
    steps = job.iterations // rounds

    def fine_tune(smaller: Any, place: int) -> Any:
        if not steps or place == rounds - 1:
            return smaller
        result = job.train(
            MaskedStep(DetectionStep(smaller)), steps, job.out / f"round_{place + 1}", {}, validated=False
        )
        return load_checkpoint(result.checkpoint)[0]

    smaller, report = prune_by_taylor(
        detector, config, lambda place: loader.batches(place * batches, (place + 1) * batches), fine_tune
    )
    job.iterations = steps
    return smaller, report, config


def _by_lasso(
    job: _Job, detector: Any, blocks: Any, sparsity: float, to_width: float | None, batches: int
) -> tuple[Any, Any, Any]:
    from rich.console import Console
    from rich.progress import Progress, TimeRemainingColumn

    from tinydet.cli.training_stage import checked
    from tinydet.prune.lasso import LassoConfig, prune_by_lasso

    config = checked(lambda: LassoConfig(sparsity, "all" if to_width else blocks, to_width, seed=job.settings.seed))
    looked_at = list(job.loader(detector).batches(0, batches))
    console = Console(stderr=True)
    with Progress(
        *Progress.get_default_columns()[:2], TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("channels", total=None)
        smaller, report = prune_by_lasso(
            detector, config, looked_at, lambda done, of: bar.update(task, completed=done, total=of)
        )
    return smaller, report, config


def _blocks(text: str) -> Any:
    """`backbone,heads` or `all`."""
    if text == "all":
        return text
    names = tuple(part.strip() for part in text.split(","))
    if unknown := [name for name in names if name not in ("backbone", "proposals", "heads")]:
        raise InputError(f"--block {unknown[0]!r}: expected backbone, proposals, heads (with commas between), or all")
    return names
