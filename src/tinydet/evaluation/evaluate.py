"""One way to measure: samples and detections in, metrics of the protocol out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tinydet.errors import InputError
from tinydet.evaluation.coco import evaluate_coco
from tinydet.evaluation.results import PROTOCOLS, EvaluationResult, Protocol
from tinydet.evaluation.voc import evaluate_voc
from tinydet.evaluation.wider_face import evaluate_wider_face, read_ground_truth
from tinydet.records import Detections, Sample


def evaluate(
    samples: Sequence[Sample],
    detections: Mapping[str, Detections],
    classes: Sequence[str],
    protocol: Protocol,
    wider_ground_truth: Path | None = None,
) -> EvaluationResult:
    """Measure detections.

    Args:
        samples: of the split; `wider` does without, its ground truth names the images.
        detections: by `image_id`; an image without an entry has none.
        protocol: `voc07` (11 points) or `voc` (area) at IoU 0.5, `coco`, or `wider`.
        wider_ground_truth: the folder of the official `.mat` files; only `wider` needs it.

    Raises:
        InputError: `wider` without its ground truth, or of several classes without `face`.
        ValueError: a detection's image is not among the samples, or its label has no class.
    """
    if protocol == "wider":
        if wider_ground_truth is None:
            raise InputError(
                "protocol wider needs the folder of the official ground truth, which holds wider_face_val.mat"
            )
        return _wider(detections, classes, wider_ground_truth)
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
    unknown = sorted(detections.keys() - {sample.image_id for sample in samples})
    if unknown:
        raise ValueError(f"detections of {len(unknown)} images that are not among the samples, such as {unknown[0]!r}")
    annotations = [sample.annotations for sample in samples]
    none = Detections.empty()
    found = [detections.get(sample.image_id, none) for sample in samples]
    if protocol == "coco":
        coco = evaluate_coco(annotations, found, classes)
        objects = {name: 0 for name in classes}
        for truth in annotations:
            for label in truth.labels[~(truth.difficult | truth.crowd)]:
                objects[classes[label]] += 1
        return EvaluationResult("coco", coco.metrics, coco.per_class, {}, objects)
    voc = evaluate_voc(annotations, found, classes, rule="voc07" if protocol == "voc07" else "area")
    return EvaluationResult(
        protocol,
        {"mAP": voc.mean_ap},
        {name: result.ap for name, result in voc.classes.items()},
        {name: result.curve for name, result in voc.classes.items() if result.objects},
        {name: result.objects for name, result in voc.classes.items()},
    )


def _wider(detections: Mapping[str, Detections], classes: Sequence[str], folder: Path) -> EvaluationResult:
    if "face" not in classes and len(classes) != 1:
        raise InputError(f"protocol wider needs the class 'face' or a single class; found {', '.join(classes)}")
    label = list(classes).index("face") if "face" in classes else 0
    faces = {name: found.of_labels([label]) for name, found in detections.items()}
    result = evaluate_wider_face(read_ground_truth(folder), faces)
    return EvaluationResult("wider", result.ap, {}, result.curves, result.faces)
