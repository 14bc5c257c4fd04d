"""The last nodes: scores and boxes of every class to the detections that are kept."""

from __future__ import annotations

import numpy as np

from tinydet.export.graph import GraphBuilder
from tinydet.export.proposals import largest


def class_scores(graph: GraphBuilder, logits: str) -> str:
    """`[N, classes + 1]` logits, background first, to `[classes, N]` probabilities."""
    probabilities = graph.op("Softmax", logits, axis=1)
    objects = graph.op("Slice", probabilities, graph.constant([1]), graph.constant([2**31 - 1]), graph.constant([1]))
    return graph.op("Transpose", objects, perm=[1, 0])


def kept_detections(
    graph: GraphBuilder, boxes_xyxy: str, scores: str, score_threshold: float, nms_iou: float, most: int
) -> None:
    """The graph's outputs `boxes`, `scores` and `labels`: above the threshold, after NMS by class, best first.

    NMS knows images and classes; here the classes stand in the place of images, so that each may have its own boxes.

    Args:
        boxes_xyxy: `[classes, N, 4]`.
        scores: `[classes, N]`.
    """
    kept = graph.op(
        "NonMaxSuppression",
        boxes_xyxy,
        graph.op("Unsqueeze", scores, graph.constant([1])),
        graph.constant([most]),
        graph.constant(np.array([nms_iou], np.float32)),
        graph.constant(np.array([score_threshold], np.float32)),
    )  # [M, 3]: class, 0, box
    places = graph.op("Gather", kept, graph.constant([0, 2]), axis=1)
    found = graph.op("GatherND", scores, places)
    _, best = largest(graph, found, most, sort=True)
    best_places = graph.op("Gather", places, best, axis=0)
    graph.op("GatherND", scores, best_places, named="scores")
    graph.op("GatherND", boxes_xyxy, best_places, named="boxes")
    graph.op("Gather", best_places, graph.constant(0), axis=1, named="labels")


def for_every_class(graph: GraphBuilder, boxes_xyxy: str, scores: str) -> str:
    """`[N, 4]` boxes that all classes share, as `[classes, N, 4]`."""
    classes = graph.op("Shape", scores, start=0, end=1)
    return graph.op("Expand", boxes_xyxy, graph.op("Concat", classes, graph.constant([1, 1]), axis=0))
