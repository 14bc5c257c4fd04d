from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tinydet.int8 import sensitivity
from tinydet.int8.layers import Layer, QuantizableModel
from tinydet.int8.sensitivity import choose_layers, detection_change
from tinydet.records import Detections


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5])


BOX = (0.0, 0.0, 10.0, 10.0)


@pytest.mark.parametrize(
    ("first", "second", "change"),
    [
        (found(), found(), 0),
        (found((*BOX, 0.8, 0)), found((*BOX, 0.8, 0)), 0),
        (found((*BOX, 0.8, 0)), found(), 1),
        (found(), found((*BOX, 0.8, 0)), 1),
        (found((*BOX, 0.8, 0)), found((*BOX, 0.8, 1)), 1),
        (found((*BOX, 0.8, 0)), found((*BOX, 0.4, 0)), 0.5),
        (found((*BOX, 0.8, 0)), found((0, 0, 10, 8, 0.8, 0)), 0.2),
        # one pair alike, one alone: 0.8 of 0.8 + 0.2 in common
        (found((*BOX, 0.8, 0)), found((*BOX, 0.8, 0), (50, 50, 60, 60, 0.2, 0)), 0.2),
    ],
)
def test_the_change_of_detections(first, second, change):
    assert detection_change(first, second) == pytest.approx(change, abs=1e-6)
    assert detection_change(second, first) == pytest.approx(change, abs=1e-6)


class Harmed:
    """Examples on which each layer in int8 costs AP, and changes detections as much."""

    def __init__(self, costs: dict[str, float]) -> None:
        self.costs = costs

    def detect(self, model, count=None):
        cost = sum(self.costs[name] for name in model)
        return [found((*BOX, 1 - cost, 0))]

    def evaluate(self, detections):
        return SimpleNamespace(primary=float(detections[0].scores[0]))

    def accuracy(self, model):
        return self.evaluate(self.detect(model)).primary


@pytest.mark.parametrize(
    ("costs", "allowed", "kept"),
    [
        ({"a": 0.001, "b": 0.002}, 0.005, ()),
        ({"a": 0.001, "b": 0.04, "c": 0.002}, 0.005, ("b",)),
        ({"a": 0.02, "b": 0.03, "c": 0.001}, 0.005, ("a", "b")),
        ({"a": 0.006, "b": 0.02, "c": 0.011}, 0.0105, ("b", "c")),
        ({"a": 0.02, "b": 0.03}, 0.0, ("a", "b")),
    ],
)
def test_as_few_layers_as_needed_stay_float(monkeypatch, costs, allowed, kept):
    def in_int8(source, ranges, kept_in_float, weight_bits):
        return [layer.name for layer in source.layers if layer.name not in kept_in_float]

    monkeypatch.setattr(sensitivity, "quantized", in_int8)
    layers = tuple(Layer(name, (name,), name, 10) for name in costs)
    choice = choose_layers(QuantizableModel([], layers), None, Harmed(costs), allowed)
    assert sorted(choice.kept_in_float) == sorted(kept)
    assert choice.float_accuracy - choice.accuracy <= allowed + 1e-6
    assert [row.change for row in choice.layers] == pytest.approx(sorted(costs.values(), reverse=True), abs=1e-6)
    assert all("went from" in row.reason for row in choice.layers if row.kept_in_float)
    assert choice.all_int8_accuracy == pytest.approx(1 - sum(costs.values()))
