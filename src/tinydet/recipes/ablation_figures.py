"""What the ablations of Quantization Mimic draw: accuracy against the quantizer's stride, and against the regions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tinydet.quantizers import UniformQuantizerConfig
from tinydet.recipes.mimic_chain import MimicChain
from tinydet.recipes.plan import StudentVariant
from tinydet.report.summary import RunSummary, Sweep


def add_ablation_curves(chain: MimicChain, summary: RunSummary) -> RunSummary:
    """The summary with a line for each setting that several students differ in, the others being the first one's."""
    first = chain.plan.students[0]
    alike = [s for s in chain.plan.students if s.mimic == first.mimic]
    sweeps = (
        _sweep(summary, "Stride of the quantizer", "stride", [s for s in alike if s.regions == first.regions], _stride),
        _sweep(summary, "Regions mimicked", "regions", [s for s in alike if s.quantizer == first.quantizer], _regions),
    )
    return replace(summary, sweeps=(*summary.sweeps, *sweeps))


def _sweep(
    summary: RunSummary, title: str, x_label: str, students: list[StudentVariant], x: Callable[[StudentVariant], float]
) -> Sweep:
    metric, points = summary.metric_names[0], []
    for student in students:
        row = summary.variant(student.name)
        mean = row.mean(metric) if row else None
        if mean is not None:
            points.append((x(student), 100 * mean))
    return Sweep(title, x_label, metric, {"student": tuple(sorted(points))})


def _stride(student: StudentVariant) -> float:
    assert isinstance(student.quantizer, UniformQuantizerConfig)
    return student.quantizer.stride


def _regions(student: StudentVariant) -> float:
    assert student.regions is not None
    return student.regions
