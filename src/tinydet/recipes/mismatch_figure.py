"""Figure 5 of Wei et al. 2018 for a run: the mismatching ratio of every region, for each mimicking student."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tinydet.distill.mismatch import load_pair, measure_mismatch, mismatch_histogram
from tinydet.files import read_json, write_json
from tinydet.recipes.mimic_chain import MimicChain
from tinydet.recipes.plan import StudentVariant
from tinydet.report.summary import RunSummary
from tinydet.training.engine import choose_device

METRIC = "mismatch"


def add_mismatch(chain: MimicChain, summary: RunSummary) -> RunSummary:
    """The summary with a histogram over the test images, and the mean ratio beside each student's accuracy."""
    measured = {
        variant.name: {seed: _measured(chain, variant, seed) for seed in chain.options.seeds}
        for variant in chain.plan.students
        if variant.mimic and not variant.two_stage  # a second stage has no transform
    }
    variants = [
        replace(
            variant,
            seeds=tuple(
                replace(seed, metrics={**seed.metrics, METRIC: measured[variant.name][seed.seed]["mean"]})
                for seed in variant.seeds
            ),
        )
        if variant.name in measured
        else variant
        for variant in summary.variants
    ]
    shares = {  # every seed has the same teacher, images and so regions
        name: tuple(np.mean([of_seed["shares"] for of_seed in seeds.values()], axis=0).tolist())
        for name, seeds in measured.items()
    }
    histogram = replace(mismatch_histogram({}), shares=shares)
    return replace(
        summary,
        variants=tuple(variants),
        metric_names=(*summary.metric_names, METRIC),
        histograms=(*summary.histograms, histogram),
    )


def _measured(chain: MimicChain, variant: StudentVariant, seed: int) -> dict[str, Any]:
    """Kept in the run's `mismatch`, as accuracies are in its `evaluations`."""
    kept = chain.options.out / "mismatch" / f"{variant.name}_seed{seed}_{chain.bench.test_split}.json"
    if not kept.is_file():
        chain.bench.say(f"{variant.name}, seed {seed}: comparing regions with the teacher's")
        pair = load_pair(chain.teacher_of(variant), chain.student(variant, seed))
        ratios = measure_mismatch(pair, chain.bench.test_samples, device=choose_device(chain.options.device))
        shares = mismatch_histogram({variant.name: ratios}).shares[variant.name]
        write_json(kept, {"regions": len(ratios), "mean": float(ratios.mean()), "shares": shares})
    content: dict[str, Any] = read_json(kept)
    return content
