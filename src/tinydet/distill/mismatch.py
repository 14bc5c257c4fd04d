"""How far a student's regions are from its teacher's: the mismatching ratio (Wei et al. 2018, section 4.1, Figure 5).

Of one region, the share of entries with |f_t - f_s| over a threshold, 0.3 in the paper. Features are those of the mimic
loss: the teacher's Q(f_t) and the student's transformed r(f_s), quantized where the student is. r is what the student's
training left beside its weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinydet.config import from_plain
from tinydet.detectors.outputs import Detector
from tinydet.distill.mimic import MimicConfig, RegionMimic
from tinydet.distill.steps import mimicked_maps, region_mimic
from tinydet.distill.teacher import Teacher, TeacherView
from tinydet.errors import InputError
from tinydet.files import read_json
from tinydet.records import Sample
from tinydet.report.summary import Histogram
from tinydet.training.checkpoint import LAST, load_checkpoint, read_tensors
from tinydet.training.validation import evaluating, readable_batch

PAPER_THRESHOLD = 0.3
_STEP_FILE, _PREFIX = "step.safetensors", "mimic."
_REGIONS_AT_ONCE = 256


@dataclass(frozen=True)
class MimicPair:
    """A teacher, a student that mimicked it, and the trained loss between them.

    Attributes:
        config: what the student was trained with.
        maps: the student's maps that were mimicked.
    """

    teacher: Detector
    student: Detector
    mimic: RegionMimic
    config: MimicConfig
    maps: tuple[int, ...]


def load_pair(teacher: str | os.PathLike[str], student: str | os.PathLike[str]) -> MimicPair:
    """Both detectors, and the transform r that the student was trained with.

    Args:
        student: a checkpoint of `tinydet mimic` or of a recipe that mimics, or its run's folder.

    Raises:
        InputError: the student was not trained by mimicking, its r is not there, or r is not of this teacher.
    """
    folder = _with_transform(Path(student))
    taught, info = load_checkpoint(folder)
    taught_by, teacher_info = load_checkpoint(teacher)
    if teacher_info.classes != info.classes:
        raise InputError(f"{teacher} detects {', '.join(teacher_info.classes)}; {student}: {', '.join(info.classes)}")
    config = _mimic_config(folder)
    mimic = region_mimic(taught, taught_by, config)
    tensors = {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in read_tensors(folder / _STEP_FILE).items()
        if name.startswith(_PREFIX)
    }
    expected = {name: tuple(tensor.shape) for name, tensor in mimic.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        raise InputError(
            f"{folder / _STEP_FILE}: the transform is {found}, between these detectors it would be {expected}: was "
            f"{student} taught by another teacher than {teacher}?"
        )
    mimic.load_state_dict(tensors)
    return MimicPair(taught_by, taught, mimic, config, mimicked_maps(taught, taught_by, config))


def _with_transform(student: Path) -> Path:
    """The checkpoint with the newest weights, whose r belongs to them; a run's `best` is saved without."""
    for folder in (student, student / LAST):
        if (folder / _STEP_FILE).is_file():
            return folder
    raise InputError(
        f"{student}: neither it nor its {LAST} has {_STEP_FILE}, which holds the transform of a student that was "
        f"trained by mimicking; name the run's folder or its {LAST}, of `tinydet mimic` without --features-only"
    )


def _mimic_config(folder: Path) -> MimicConfig:
    file = folder / "config.json"
    step = read_json(file).get("run", {}).get("training", {}).get("step", {})
    if step.get("type") != "MimicStep":
        raise InputError(f"{file}: trained by {step.get('type')}, not by a MimicStep: it mimics no regions")
    return from_plain(MimicConfig, step.get("config"), f"{file}: run.training.step.config")


def mismatching_ratios(teacher_regions: Tensor, student_regions: Tensor, threshold: float = PAPER_THRESHOLD) -> Tensor:
    """`[N]` float64: of each region of `[N, C, P, P]` features, the share of entries further apart than `threshold`."""
    apart = (teacher_regions - student_regions).abs() > threshold
    return apart.flatten(1).double().mean(dim=1)


def measure_mismatch(
    pair: MimicPair,
    samples: Sequence[Sample],
    threshold: float = PAPER_THRESHOLD,
    regions: int | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """The mismatching ratio of every region that the teacher proposes in these images, image by image.

    Args:
        regions: at most as many in each image; None: as many as the student was trained with.
        progress: called with the images done and their number.

    Images that cannot be read are named in a warning each and left out.

    Raises:
        InputError: the teacher proposes no region in any of them, or none can be read.
    """
    student: Any = pair.student
    student.to(device)
    pair.mimic.to(device)
    teacher = Teacher(pair.teacher, regions or pair.config.regions, memory_bytes=0)  # each image is met once
    found = []
    with evaluating(student), evaluating(pair.mimic):
        for index, sample in enumerate(samples):
            batch = readable_batch([sample], student.config.preprocessing)
            if batch is not None:
                batch = batch.to(torch.device(device))
                maps = student.features(batch)
                found.append(_ratios_of_image(pair, teacher.views(batch)[0], maps, threshold))
            if progress:
                progress(index + 1, len(samples))
    ratios = torch.cat(found).cpu().numpy() if found else np.zeros(0)
    if not len(ratios):
        raise InputError(f"there is no region to compare in these {len(samples)} images")
    return ratios


def _ratios_of_image(pair: MimicPair, view: TeacherView, student_maps: tuple[Tensor, ...], threshold: float) -> Tensor:
    """`[N]`; with several maps, over the entries of all of them."""
    ratios = []
    for boxes_xyxy in view.boxes_xyxy.split(_REGIONS_AT_ONCE):
        shares, entries = [], []
        for place, level in enumerate(pair.maps):
            teacher, student = pair.mimic.pooled(
                place,
                view.features[level],
                student_maps[level][0],
                view.strides[level],
                pair.student.feature_strides[level],
                boxes_xyxy,
            )
            shares.append(mismatching_ratios(teacher, student, threshold))
            entries.append(teacher[0].numel())
        weights = torch.tensor(entries, dtype=torch.float64, device=boxes_xyxy.device)
        ratios.append((torch.stack(shares, dim=1) * weights).sum(dim=1) / weights.sum())
    return torch.cat(ratios) if ratios else torch.zeros(0, dtype=torch.float64)


def mismatch_histogram(
    ratios: Mapping[str, NDArray[np.float64]], threshold: float = PAPER_THRESHOLD, bins: int = 25
) -> Histogram:
    """Figure 5: the share of regions in each bin of their mismatching ratio, by student."""
    edges = np.linspace(0, 1, bins + 1)
    shares = {name: np.histogram(values, edges)[0] / max(1, len(values)) for name, values in ratios.items()}
    return Histogram(
        "Mismatching ratio of each region",
        f"share of entries further than {threshold:g} from the teacher's",
        tuple(edges.tolist()),
        {name: tuple(values.tolist()) for name, values in shares.items()},
    )
