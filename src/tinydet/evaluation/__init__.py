"""How good detections are, by the protocols of PASCAL VOC, COCO and WIDER FACE."""

from tinydet.evaluation.coco import CocoResult, evaluate_coco
from tinydet.evaluation.detection_files import read_detections, write_detections
from tinydet.evaluation.detection_rows import DetectionFile
from tinydet.evaluation.evaluate import evaluate
from tinydet.evaluation.results import PROTOCOLS, EvaluationResult, PrecisionRecall, Protocol
from tinydet.evaluation.voc import VocResult, evaluate_voc
from tinydet.evaluation.wider_face import WiderResult, evaluate_wider_face

__all__ = [
    "PROTOCOLS",
    "CocoResult",
    "DetectionFile",
    "EvaluationResult",
    "PrecisionRecall",
    "Protocol",
    "VocResult",
    "WiderResult",
    "evaluate",
    "evaluate_coco",
    "evaluate_voc",
    "evaluate_wider_face",
    "read_detections",
    "write_detections",
]
