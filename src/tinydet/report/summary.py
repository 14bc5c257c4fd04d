"""What a run found: the contents of its `summary.json`, from which every table, plot and page is made.

Accuracies (`metrics`, `per_class`, and the paper's beside them) are fractions of 1; tables show them times 100, as
papers do. Means and spreads over seeds are computed here. They are also written into the file, for people who read it
with other tools, and are computed anew when it is read.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinydet.errors import InputError
from tinydet.files import read_json, write_json

FORMAT_VERSION = 1
SUMMARY_NAME = "summary.json"
CURVE_POINTS = 101

Accuracies = dict[str, float | None]


def _accuracies(values: Mapping[str, Any], what: str) -> Accuracies:
    """Plain floats, None for what is not a number; refuses what cannot be a fraction."""
    checked: Accuracies = {}
    for name, value in values.items():
        number = None if value is None or math.isnan(float(value)) else float(value)
        if number is not None and not -1e-6 <= number <= 1 + 1e-6:
            raise ValueError(f"{what} {name!r} is {number}; accuracies are fractions of 1")
        checked[str(name)] = number
    return checked


@dataclass(frozen=True)
class Curve:
    """Precision against recall of one class, recall ascending. Make it with `precision_recall_curve`."""

    recall: tuple[float, ...]
    precision: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.recall) != len(self.precision):
            raise ValueError(f"{len(self.recall)} recalls and {len(self.precision)} precisions")


def precision_recall_curve(recall: Sequence[float], precision: Sequence[float], points: int = CURVE_POINTS) -> Curve:
    """A curve of at most `points` points: the best precision at or beyond each of evenly spaced recalls.

    This is the envelope that the VOC rules integrate; recalls that the detector never reaches are left out.
    """
    pairs = sorted((float(r), float(p)) for r, p in zip(recall, precision) if math.isfinite(r) and math.isfinite(p))
    envelope: list[tuple[float, float]] = []
    best = 0.0
    for r, p in reversed(pairs):
        best = max(best, p)
        envelope.append((r, best))
    envelope.reverse()
    kept_recall, kept_precision, at = [], [], 0
    for step in range(points):
        wanted = step / (points - 1)
        while at < len(envelope) and envelope[at][0] < wanted - 1e-9:
            at += 1
        if at == len(envelope):
            break
        kept_recall.append(round(wanted, 4))
        kept_precision.append(round(envelope[at][1], 4))
    return Curve(tuple(kept_recall), tuple(kept_precision))


@dataclass(frozen=True)
class SeedResult:
    """One training run of a variant.

    Attributes:
        metrics: accuracy by metric name, fractions of 1.
        per_class: AP by class; None for a class without ground truth.
        curves: precision-recall by class.
        loss_log: the `losses.jsonl` of the training, relative to the run folder; None where nothing was trained.
        seconds: that the training took.
    """

    seed: int
    metrics: Accuracies
    per_class: Accuracies = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    loss_log: str | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", _accuracies(self.metrics, f"seed {self.seed}: metric"))
        object.__setattr__(self, "per_class", _accuracies(self.per_class, f"seed {self.seed}: AP of"))


@dataclass(frozen=True)
class BlockFigures:
    """Size of one block of a detector."""

    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class VariantSummary:
    """One row of the table: a detector, trained once a seed.

    Attributes:
        name: short and unique in the run, such as `scratch`.
        title: what tables show.
        multiply_adds: of one image of `input_hw`.
        bytes_on_disk: of the file that a user would ship.
        latency_ms: median, of one image from file to boxes unless `notes` of the run say otherwise.
        paper: the paper's numbers by metric name (fractions of 1), and, under the names of fields here
            (`parameters`, `multiply_adds`, `bytes_on_disk`, `latency_ms`), its sizes and times.
        checkpoint: relative to the run folder.
        blocks: parameters and multiply-adds by block.
    """

    name: str
    title: str
    description: str = ""
    seeds: tuple[SeedResult, ...] = ()
    parameters: int | None = None
    multiply_adds: int | None = None
    input_hw: tuple[int, int] | None = None
    bytes_on_disk: int | None = None
    latency_ms: float | None = None
    paper: dict[str, float | None] = field(default_factory=dict)
    checkpoint: str | None = None
    blocks: dict[str, BlockFigures] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(self.seeds))
        repeated = [s.seed for s in self.seeds if sum(t.seed == s.seed for t in self.seeds) > 1]
        if repeated:
            raise ValueError(f"variant {self.name!r} has seed {repeated[0]} twice")
        sizes = {k: v for k, v in self.paper.items() if k in _PAPER_SIZES}
        accuracies = {k: v for k, v in self.paper.items() if k not in _PAPER_SIZES}
        paper = _accuracies(accuracies, f"variant {self.name!r}: the paper's") | sizes
        object.__setattr__(self, "paper", paper)

    def mean(self, metric: str) -> float | None:
        """Over seeds; None where no seed has it."""
        return _mean(seed.metrics.get(metric) for seed in self.seeds)

    def spread(self, metric: str) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        return _spread(seed.metrics.get(metric) for seed in self.seeds)

    def class_mean(self, class_name: str) -> float | None:
        return _mean(seed.per_class.get(class_name) for seed in self.seeds)

    def class_spread(self, class_name: str) -> float | None:
        return _spread(seed.per_class.get(class_name) for seed in self.seeds)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for seed in self.seeds for name in seed.per_class))

    @property
    def seconds(self) -> float:
        return sum(seed.seconds for seed in self.seeds)


_PAPER_SIZES = frozenset({"parameters", "multiply_adds", "bytes_on_disk", "latency_ms"})


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [v for v in values if v is not None]
    return statistics.fmean(numbers) if numbers else None


def _spread(values: Iterable[float | None]) -> float | None:
    numbers = [v for v in values if v is not None]
    return statistics.stdev(numbers) if len(numbers) > 1 else None


@dataclass(frozen=True)
class PaperTable:
    """Where the numbers beside ours come from, such as `Wei et al. 2018, Quantization Mimic` and `Table 7`."""

    source: str
    table: str = ""

    def __str__(self) -> str:
        return f"{self.source}, {self.table}" if self.table else self.source


@dataclass(frozen=True)
class Asked:
    """What the user asked for, and where and when it ran.

    Attributes:
        date: ISO 8601, when the run ended.
        seconds: that the whole run took, interruptions left out.
        settings: anything else worth showing, such as `schedule` or `input size`.
    """

    data: str
    split: str
    seeds: tuple[int, ...]
    budget: str
    command: str
    machine: str
    versions: dict[str, str]
    date: str
    seconds: float
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Histogram:
    """A distribution for each variant over shared bins, such as the mismatch ratio of Wei et al. 2018, Figure 5.

    Attributes:
        edges: of the bins, one more than bins.
        shares: the share of entries in each bin, by variant name.
    """

    title: str
    x_label: str
    edges: tuple[float, ...]
    shares: dict[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        for name, shares in self.shares.items():
            if len(shares) != len(self.edges) - 1:
                raise ValueError(f"{self.title}: {name!r} has {len(shares)} bins, edges make {len(self.edges) - 1}")


@dataclass(frozen=True)
class Sweep:
    """Lines over one setting, such as AP50 against sparsity: `series` maps a line's name to its (x, y) points."""

    title: str
    x_label: str
    y_label: str
    series: dict[str, tuple[tuple[float, float], ...]]


@dataclass(frozen=True)
class Grid:
    """A table laid out as a paper's: texts, the first column naming the rows."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"{self.title}: row {row[:1]} has {len(row)} cells, the header {len(self.header)}")


@dataclass(frozen=True)
class RunSummary:
    """Attributes:
    recipe: its name, such as `quantization_mimic.table7`.
    protocol: how accuracy was measured, in words a reader understands.
    metric_names: columns of the table, the most important first.
    notes: caveats for the reader, one sentence or two each.
    """

    recipe: str
    title: str
    asked: Asked
    protocol: str
    metric_names: tuple[str, ...]
    variants: tuple[VariantSummary, ...]
    paper: PaperTable | None = None
    notes: tuple[str, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    grids: tuple[Grid, ...] = ()

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            raise ValueError(f"{self.recipe}: a variant is named twice: {names}")
        if not self.metric_names:
            raise ValueError(f"{self.recipe}: no metric is named")

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for variant in self.variants for name in variant.class_names))

    def variant(self, name: str) -> VariantSummary | None:
        return next((variant for variant in self.variants if variant.name == name), None)


def write_summary(summary: RunSummary, run_folder: str | Path) -> Path:
    """Write `summary.json` into a run's folder and give its path."""
    path = Path(run_folder) / SUMMARY_NAME
    write_json(path, summary_to_dict(summary))
    return path


def read_summary(run_folder: str | Path) -> RunSummary:
    """The summary of a run, named by its folder or by the file itself.

    Raises:
        InputError: there is none, or it is not a summary; the message names the field.
    """
    path = Path(run_folder)
    if path.is_dir() and not (path / SUMMARY_NAME).is_file():
        raise InputError(f"{path}: no {SUMMARY_NAME} in this folder; a folder that `tinydet run` finished has one")
    if path.is_dir():
        path = path / SUMMARY_NAME
    return summary_from_dict(read_json(path), str(path))


def summary_to_dict(summary: RunSummary) -> dict[str, Any]:
    """Ready for JSON. Each variant's entry starts with its mean accuracy, under the metric's own name."""
    plain = dataclasses.asdict(summary)
    for entry, variant in zip(plain["variants"], summary.variants):
        derived = {
            **{metric: variant.mean(metric) for metric in summary.metric_names},
            "spread": {metric: variant.spread(metric) for metric in summary.metric_names},
            "AP_per_class": {name: variant.class_mean(name) for name in variant.class_names},
        }
        fields = dict(entry)
        entry.clear()
        entry.update({"name": fields.pop("name"), "title": fields.pop("title"), **derived, **fields})
    return {"format_version": FORMAT_VERSION, **plain}


def summary_from_dict(value: Any, source: str = "summary") -> RunSummary:
    """The record in a dictionary that `summary_to_dict` made.

    Raises:
        InputError: a field is missing or wrong; the message starts with `source`.
    """
    from tinydet.config import from_plain

    if not isinstance(value, dict):
        raise InputError(f"{source}: expected an object, found {type(value).__name__}")
    version = value.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(f"{source}: format_version {version!r}, this tinydet reads {FORMAT_VERSION}")
    plain = {name: entry for name, entry in value.items() if name != "format_version"}
    if isinstance(plain.get("variants"), (list, tuple)):
        plain["variants"] = [_without_derived(entry) for entry in plain["variants"]]
    return from_plain(RunSummary, plain, source)


def _without_derived(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    stored = {item.name for item in dataclasses.fields(VariantSummary)}
    return {name: value for name, value in entry.items() if name in stored}
