"""The proposal network's last steps as nodes: the best anchors of each map, decoded, and thinned out by NMS."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from tinydet.detectors.proposals import WEIGHTS, ProposalNetwork
from tinydet.export.boxes import NEVER, decoded
from tinydet.export.graph import FLOAT, INT32, GraphBuilder


def proposals_of_levels(
    graph: GraphBuilder, network: ProposalNetwork, logits: list[str], deltas: list[str], limit_xy: str
) -> str:
    """`[P, 4]` proposals in no order, from `[1, A, H, W]` logits and `[1, 4 A, H, W]` deltas of each map.

    Only the chosen anchors are decoded: `ProposalNetwork.propose`, candidate by candidate.
    """
    config = network.config
    boxes, scores = [], []
    for level, (level_logits, level_deltas) in enumerate(zip(logits, deltas)):
        level_boxes, level_scores = _candidates(graph, network, level, level_logits, level_deltas, limit_xy)
        kept = _best(graph, level_boxes, level_scores, config.nms_iou, config.test_proposals)
        boxes.append(graph.op("Gather", level_boxes, kept, axis=0))
        if len(logits) > 1:
            scores.append(graph.op("Gather", level_scores, kept, axis=0))
    if len(boxes) == 1:
        return boxes[0]
    all_boxes, all_scores = graph.op("Concat", *boxes, axis=0), graph.op("Concat", *scores, axis=0)
    _, best = largest(graph, all_scores, config.test_proposals)
    return graph.op("Gather", all_boxes, best, axis=0)


def largest(graph: GraphBuilder, values: str, count: int, sort: bool = False) -> tuple[str, str]:
    """Values and indices of the `count` largest of `[N]`, or of all where there are fewer."""
    number = graph.op("Min", graph.op("Shape", values), graph.constant([count]))
    best, indices = graph.ops("TopK", values, number, outputs=2, axis=0, largest=1, sorted=int(sort))
    return best, indices


def _candidates(
    graph: GraphBuilder, network: ProposalNetwork, level: int, logits: str, deltas: str, limit_xy: str
) -> tuple[str, str]:
    """`[K, 4]` boxes of the best anchors of one map, and `[K]` scores; too small a box has the lowest score."""
    config = network.config
    anchors = config.anchors.per_cell
    scores, chosen = largest(graph, graph.op("Reshape", logits, graph.constant([-1])), config.test_candidates)
    by_anchor = graph.op("Reshape", deltas, graph.constant([anchors, 4, -1]))  # [A, 4, H * W]
    by_anchor = graph.op("Transpose", by_anchor, perm=[0, 2, 1])
    by_anchor = graph.op(
        "Reshape", by_anchor, graph.constant([-1, 4])
    )  # [A * H * W, 4], so that whole rows are gathered
    centres, sizes = _anchors(graph, network, level, logits, chosen)
    chosen_deltas = graph.op("Transpose", graph.op("Gather", by_anchor, chosen, axis=0), perm=[1, 0])
    first, second = decoded(graph, chosen_deltas, centres, sizes, WEIGHTS, limit_xy)  # [2, K] each
    if config.smallest_side > 0:
        smaller = graph.op("ReduceMin", graph.op("Sub", second, first), graph.constant([0]), keepdims=0)
        large = graph.op("GreaterOrEqual", smaller, graph.constant(float(config.smallest_side)))
        scores = graph.op("Where", large, scores, graph.constant(NEVER))
    return graph.op("Transpose", graph.op("Concat", first, second, axis=0), perm=[1, 0]), scores


def _anchors(graph: GraphBuilder, network: ProposalNetwork, level: int, logits: str, chosen: str) -> tuple[str, str]:
    """`[2, K]` centres and sizes of anchors `[K]`, counted as they lie in `[A, H, W]`.

    In whole numbers of 32 bits, which engines divide several times faster than those of 64.
    """
    cells = network.get_buffer(f"cells_{level}").cpu()
    stride = float(network.strides[level])
    shape = graph.op("Cast", graph.op("Shape", logits, start=2), to=INT32)
    columns = graph.op("Slice", shape, graph.constant([1]), graph.constant([2]))
    area = graph.op("ReduceProd", shape, graph.constant([0]), keepdims=1)
    chosen = graph.op("Cast", chosen, to=INT32)
    anchor = graph.op("Div", chosen, area)
    within = graph.op("Sub", chosen, graph.op("Mul", anchor, area))
    row = graph.op("Div", within, columns)
    column = graph.op("Sub", within, graph.op("Mul", row, columns))
    both = [graph.op("Unsqueeze", index, graph.constant([0])) for index in (column, row)]
    place = graph.op("Cast", graph.op("Concat", *both, axis=0), to=FLOAT)  # [2, K]
    cell_centres, cell_sizes = (x.numpy() for x in _centres_and_sizes(cells))
    centres = graph.op("Mul", place, graph.constant(stride))
    if np.any(cell_centres):
        centres = graph.op("Add", centres, _rows(graph, cell_centres, anchor))
    return centres, _rows(graph, cell_sizes, anchor)


def _rows(graph: GraphBuilder, table: NDArray[np.float32], rows: str) -> str:
    """`[2, K]`: the chosen rows of a `[A, 2]` table."""
    return graph.op("Transpose", graph.op("Gather", graph.constant(table), rows, axis=0), perm=[1, 0])


def _centres_and_sizes(cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = cells[:, 2:] - cells[:, :2]
    return cells[:, :2] + sizes / 2, sizes


def _best(graph: GraphBuilder, boxes_xyxy: str, scores: str, iou: float, most: int) -> str:
    """`[M]` indices of boxes kept by NMS, best first. IoU does not care that x and y change places."""
    kept = graph.op(
        "NonMaxSuppression",
        graph.op("Unsqueeze", boxes_xyxy, graph.constant([0])),
        graph.op("Unsqueeze", scores, graph.constant([0, 1])),
        graph.constant([most]),
        graph.constant(np.array([iou], np.float32)),
        graph.constant(np.array([NEVER / 2], np.float32)),
    )
    return graph.op("Gather", kept, graph.constant(2), axis=1)
