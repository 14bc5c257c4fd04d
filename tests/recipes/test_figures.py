from pathlib import Path

import pytest
from PIL import Image

from tinydet.recipes import figures
from tinydet.recipes.figures import latencies_ms


@pytest.fixture
def clock(monkeypatch):
    """Detectors that take as many seconds as their files' names say, on a clock that only they move."""
    now, calls = [0.0], []

    class Timed:
        def __init__(self, file, engine, threads):
            assert threads == 1
            self.file = file

        def __call__(self, picture):
            calls.append((self.file.name, picture.width))
            now[0] += float(self.file.name) * picture.width

    monkeypatch.setattr(figures, "Detector", Timed)
    monkeypatch.setattr(figures.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(figures.time, "monotonic", lambda: now[0])
    return calls


def pictures(*widths):
    return [Image.new("RGB", (width, 4)) for width in widths]


def test_files_take_turns_and_each_is_first_as_often(clock):
    times = latencies_ms([Path("0.01"), Path("0.02")], pictures(1, 2, 3))
    assert times == pytest.approx([20, 40])  # of the middle picture
    warm, counted = clock[:2], clock[2:]
    assert warm == [("0.01", 1), ("0.02", 1)]
    rounds = [counted[place : place + 2] for place in range(0, len(counted), 2)]
    assert len(rounds) == 3 * figures._ROUNDS
    assert all(one[1] == two[1] and one[0] != two[0] for one, two in rounds)  # the same picture, both files
    assert [one[0] for one, _ in rounds[:4]] == ["0.01", "0.02", "0.01", "0.02"]


def test_slow_files_end_the_timing_early_with_as_many_times_each(clock):
    assert latencies_ms([Path("1"), Path("40")], pictures(1, 1, 1)) == pytest.approx([1000, 40_000])
    assert len(clock) == 2 + 2 * 2  # 41 seconds a turn, 60 seconds for both


def test_rounds_end_once_they_have_taken_enough_time(clock):
    assert latencies_ms([Path("0.5")], pictures(1, 2)) == pytest.approx([750])
    assert len(clock) == 1 + 5  # 3.5 seconds


def test_one_turn_is_taken_however_slow(clock):
    assert latencies_ms([Path("1000")], pictures(1)) == pytest.approx([1e6])


def test_an_interruption_counts_in_no_file(clock, monkeypatch):
    """Half of one file's times are too long."""
    stalled = figures.Detector

    class Interrupted(stalled):
        def __call__(self, picture):
            super().__call__(picture)
            if self.file.name == "0.02" and clock.count(("0.02", picture.width)) % 2:
                super().__call__(Image.new("RGB", (2, 4)))

    monkeypatch.setattr(figures, "Detector", Interrupted)
    assert latencies_ms([Path("0.01"), Path("0.02")], pictures(1, 3, 5)) == pytest.approx([30, 60])
