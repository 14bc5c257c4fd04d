"""The channel-pruning rows of Wei et al. 2018, Table 3: a trained VGG-1-4 pruned to VGG-1-32's channels.

Every layer keeps the same share of its channels, so that what is left has the channels of the student's network, and
so its complexity: the paper's rows are all of 227 M. Which channels these are is what the two methods decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tinydet.data.batch import Batch
from tinydet.data.loader import Loader, make_loader
from tinydet.errors import InputError
from tinydet.prune.lasso import LassoConfig, prune_by_lasso
from tinydet.prune.taylor import TaylorConfig, prune_by_taylor
from tinydet.recipes.mimic_chain import MimicChain
from tinydet.training.checkpoint import load_checkpoint
from tinydet.training.steps import DetectionStep

ROUNDS = 4
"""Of Molchanov et al.'s measuring, removing and fine-tuning."""

ROUND_SHARE = 0.1
"""Fine-tuning of a round, as a share of the schedule; Wei et al. name none."""

_MOST_BATCHES = 32  # measured on in a round
_LASSO_BATCHES = 16


def prune_as_he(chain: MimicChain, teacher: Any, seed: int) -> Any:
    """LASSO selection and least-squares reconstruction, layer by layer, on training images."""
    removed_share(chain)  # refuses what is no narrowing
    config = LassoConfig(to_width=chain.student_choice.width, seed=seed)
    batches = list(_loader(chain, teacher, seed).batches(0, _LASSO_BATCHES))
    chain.bench.say(f"LASSO, layer by layer, on {sum(len(batch) for batch in batches)} images")
    return prune_by_lasso(teacher, config, batches)[0]


def prune_as_molchanov(chain: MimicChain, teacher: Any, seed: int) -> Any:
    """Taylor importance, iteratively: what is left is fine-tuned after each round."""
    schedule = chain.schedule(chain.options.student_weights, ROUND_SHARE)
    batches = max(2, min(_MOST_BATCHES, schedule.iterations))
    loader = _loader(chain, teacher, seed)

    def measured_on(place: int) -> Iterator[Batch]:
        return loader.batches(place * batches, (place + 1) * batches)

    def fine_tuned(smaller: Any, place: int) -> Any:
        stage = f"molchanov/seed{seed}_round{place + 1}"
        folder = chain.bench.train(stage, lambda: DetectionStep(smaller), schedule, seed, chain.plan.augment)
        return load_checkpoint(folder)[0]

    config = TaylorConfig(removed_share(chain), "all", rounds=ROUNDS, batches=batches, scope="local", seed=seed)
    return prune_by_taylor(teacher, config, measured_on, fine_tuned)[0]


def _loader(chain: MimicChain, teacher: Any, seed: int) -> Loader:
    """Training images as the student will see them."""
    batch_size = chain.schedule(chain.options.student_weights).batch_size
    return make_loader(chain.bench.train_samples, teacher.config.preprocessing, batch_size, chain.plan.augment, seed)


def removed_share(chain: MimicChain) -> float:
    """The share of the teacher's channels that the student's network does not have.

    Raises:
        InputError: it has as many, or more.
    """
    teacher, student = chain.teacher_choice.width, chain.student_choice.width
    if student <= teacher:
        raise InputError(
            f"student width {student:g}, teacher width {teacher:g}: a student that is a pruned teacher is narrower"
        )
    return 1 - teacher / student
