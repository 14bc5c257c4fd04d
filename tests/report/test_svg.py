from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from tinydet.report.svg import (
    Axis,
    DotRow,
    Mark,
    Series,
    dot_plot,
    fitting_axis,
    histogram_chart,
    line_chart,
    scatter_chart,
)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.013), (-3, 7), (52.4, 87.2), (0, 3200), (1e-6, 2e-6)])
def test_even_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    ticks = Axis("", low, high).ticks(5)
    assert 3 <= len(ticks) <= 9
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in ticks)
    assert all(len(f"{tick:.9e}".partition("e")[0].strip("-0").replace(".", "")) <= 4 for tick in ticks)


@pytest.mark.parametrize(("low", "high"), [(1, 10), (2e5, 5e7), (0.3, 40), (9.0, 11.0), (1e-9, 1e9)])
def test_log_ticks_are_few_and_inside(low: float, high: float) -> None:
    ticks = Axis("", low, high, log=True).ticks(5)
    assert 2 <= len(ticks) <= 8
    assert all(low <= tick <= high for tick in ticks)


def test_places_on_a_log_axis() -> None:
    axis = Axis("", 1, 100, log=True)
    assert axis.at(10) == pytest.approx(0.5)


def test_an_axis_for_one_value_or_none_has_a_width() -> None:
    for values in ([], [0.0], [5.0], [math.nan]):
        axis = fitting_axis("", values)
        assert axis.high > axis.low
        assert axis.ticks()
    assert fitting_axis("", [0.0, 5.0], log=True).low > 0


def test_a_line_goes_through_its_points_and_breaks_at_not_a_number() -> None:
    series = Series("a", [(0, 0), (1, 1), (2, math.nan), (3, 0.5), (4, 1)], 0)
    svg = line_chart([series], Axis("x", 0, 4), Axis("y", 0, 1), "t")
    path = re.search(r'class="line" d="([^"]*)"', svg)
    assert path is not None
    assert path[1].count("M") == 2
    assert path[1].count("L") == 2
    first, second = re.findall(r"[ML]([\d.]+) ([\d.]+)", path[1])[:2]
    assert float(first[0]) < float(second[0])
    assert float(first[1]) > float(second[1])  # up is up


def test_every_chart_is_well_formed_and_escaped() -> None:
    name = "<b>&\"'"
    axis = Axis(name, 0, 1)
    charts = [
        line_chart([Series(name, [(0, 0)], 9, [(0, 0, 1)], markers=True, group=name)], axis, axis, name),
        scatter_chart(
            [Mark(name, 0.5, 0.5, 0, name, 0.4, 0.6), Mark(name, 0.5, 0.5, 1, hollow=True)], axis, axis, name
        ),
        dot_plot([DotRow(name, 0, [0.5], 0.5, 0.6)], axis, name),
        histogram_chart([0, 0.5, 1], [(name, 0, [0.1, 0.9])], name, name),
    ]
    for chart in charts:
        ElementTree.fromstring(chart)
        assert "<b>" not in chart


def test_labels_of_a_scatter_do_not_lie_on_one_another() -> None:
    marks = [Mark(f"variant {i}", 0.5, 0.5 + 0.001 * i, i) for i in range(4)]
    svg = scatter_chart(marks, Axis("x", 0, 1), Axis("y", 0, 1), "t")
    places = re.findall(r'<text class="name" x="([\d.]+)" y="([\d.]+)"', svg)
    assert len(places) == 4
    assert len(set(places)) == 4
