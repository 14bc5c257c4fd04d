import pytest
import torch
from torch.nn import functional as F

from tinydet.boxes import iou
from tinydet.data.batch import Target
from tinydet.detectors.box_coding import encode
from tinydet.detectors.hard_regions import all_regions, hard_region_losses, hardest_regions
from tinydet.detectors.matching import MatchConfig
from tinydet.detectors.outputs import RegionPredictions, RegionTargets
from tinydet.detectors.rfcn import RFCNRegionConfig


def brute_force(losses, boxes, labels, count, nms_iou):
    """Again and again the greatest loss that overlaps none of those taken."""
    left = [r for r in range(len(losses)) if labels[r] >= 0]
    taken = []
    while left and len(taken) < count:
        worst = max(left, key=lambda r: losses[r])
        taken.append(worst)
        left = [r for r in left if r != worst and iou(boxes[worst : worst + 1], boxes[r : r + 1])[0, 0] <= nms_iou]
    return taken


def random_regions(count: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + 20 + torch.rand(count, 2, generator=generator) * 30], dim=1)
    labels = torch.randint(-1, 3, (count,), generator=generator)
    deltas = torch.randn(count, 4, generator=generator)
    return boxes, RegionTargets(labels, deltas)


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_the_hardest_are_those_of_the_definition(count):
    boxes, targets = random_regions(80, seed=count)
    losses = torch.rand(80, generator=torch.Generator().manual_seed(5))
    found = hardest_regions(losses, boxes, targets.labels, count, 0.5)
    assert found.tolist() == brute_force(losses.tolist(), boxes.numpy(), targets.labels.tolist(), count, 0.5)


@pytest.mark.parametrize("agnostic", [True, False])
def test_losses_and_gradients_are_those_of_the_hardest_alone(agnostic):
    config = RFCNRegionConfig(class_agnostic_boxes=agnostic)
    images = [random_regions(60, 1), random_regions(40, 2)]
    boxes = [b for b, _ in images]
    targets = RegionTargets(torch.cat([t.labels for _, t in images]), torch.cat([t.deltas for _, t in images]))
    torch.manual_seed(0)
    logits = torch.randn(100, 3, requires_grad=True)
    deltas = torch.randn(100, 4, requires_grad=True) if agnostic else torch.randn(100, 2, 4, requires_grad=True)
    losses = hard_region_losses(RegionPredictions(boxes, logits, deltas, targets), config, 8, 0.7)
    sum(losses.values()).backward()

    class_total, box_total, chosen_regions = 0.0, 0.0, []
    for start, end in ((0, 60), (60, 100)):
        class_loss, box_loss = [], []
        for r in range(start, end):
            label = int(targets.labels[r])
            class_loss.append(
                0.0 if label < 0 else F.cross_entropy(logits[r : r + 1], targets.labels[r : r + 1]).item()
            )
            own = deltas[r] if agnostic else deltas[r, label - 1]
            box_loss.append(F.smooth_l1_loss(own, targets.deltas[r], reduction="sum").item() if label > 0 else 0.0)
        total = [a + b for a, b in zip(class_loss, box_loss)]
        chosen = brute_force(total, boxes[start // 60].numpy(), targets.labels[start:end].tolist(), 8, 0.7)
        assert len(chosen) == 8
        chosen_regions += [start + c for c in chosen]
        class_total += sum(class_loss[c] for c in chosen) / 8 / 2
        box_total += sum(box_loss[c] for c in chosen) / 8 / 2
    assert losses["detection_class"].item() == pytest.approx(class_total, rel=1e-5)
    assert losses["detection_box"].item() == pytest.approx(box_total, rel=1e-5)

    rest = torch.ones(100, dtype=torch.bool)
    rest[chosen_regions] = False
    assert (logits.grad[rest] == 0).all()  # exactly
    assert (deltas.grad[rest] == 0).all()
    assert (logits.grad[~rest] != 0).any(dim=1).all()


def test_an_overflown_loss_outside_the_hardest_leaves_no_trace():
    boxes = [torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])]
    targets = RegionTargets(torch.tensor([0, -1]), torch.zeros(2, 4))
    logits = torch.tensor([[0.0, 1.0], [float("inf"), 0.0]], requires_grad=True)
    regions = RegionPredictions(boxes, logits, torch.zeros(2, 4), targets)
    losses = hard_region_losses(regions, RFCNRegionConfig(), 5, 0.7)
    losses["detection_class"].backward()
    assert losses["detection_class"].isfinite()
    assert logits.grad[0].isfinite().all()


def test_every_proposal_and_object_is_a_region():
    target = Target(torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([4]), torch.tensor([[100.0, 100, 140, 140]]))
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    proposals = torch.tensor([[0.0, 0, 20, 18], [50, 50, 80, 80], [105, 105, 135, 135]])
    boxes, targets = all_regions([proposals, proposals], (target, nothing), MatchConfig(0.5, 0.5))
    assert [len(b) for b in boxes] == [4, 3]
    assert targets.labels.tolist() == [5, 0, -1, 5, 0, 0, 0]
    wanted = encode(target.boxes_xyxy, proposals[:1], (10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(targets.deltas[:1], wanted)
    assert (targets.deltas[1:] == 0).all()


def test_an_image_without_regions_costs_nothing():
    regions = RegionPredictions(
        [torch.zeros(0, 4)],
        torch.zeros(0, 3, requires_grad=True),
        torch.zeros(0, 4),
        RegionTargets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)),
    )
    losses = hard_region_losses(regions, RFCNRegionConfig(), 5, 0.7)
    assert {name: loss.item() for name, loss in losses.items()} == {"detection_class": 0, "detection_box": 0}
