"""What a run wrote of steps that it will repeat is taken back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tinydet.errors import TinydetError
from tinydet.training.logs import JsonLines, RunLog
from tinydet.training.progress import TrainingProgress, duration


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        ("", 0),
        ('{"step": 1}\n{"step": 2}\n', 2),
        ('{"step": 1}\n{"step": 2}\n{"step": 3}\n', 2),
        ('{"step": 1}\n{"step": 2', 1),
        ('{"step": 1}\n{"step": 2}', 1),
        ('{"step": 1}\nnot json\n{"step": 2}\n', 1),
    ],
)
def test_lines_beyond_the_resumed_step_go(tmp_path: Path, before: str, kept: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(before)
    log = JsonLines(path, 2)
    log.append({"step": 9})
    log.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [*range(1, kept + 1), 9]


def test_events_can_be_read_back(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0, every=2)
    for step in range(1, 7):
        log.step(step, 0.1, {"box": float(step), "mimic": 2.0}, 5.0)
    log.validation(6, 0.5, {"mAP": 0.5, "classes": {"cat": 0.5}})
    log.close()
    log = RunLog(tmp_path, 4, every=2)  # resumed: steps 5 and 6 again
    for step in (5, 6):
        log.step(step, 0.1, {"box": 50.0 + step, "mimic": 2.0}, 5.0)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/box")] == [(2, 2.0), (4, 4.0), (6, 56.0)]
    assert events.Scalars("loss/total")[0].value == 4.0
    entries = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert [entry["losses"]["box"] for entry in entries] == [1, 2, 3, 4, 55, 56]
    assert (tmp_path / "validations.jsonl").read_text() == ""


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TinydetError, match="cannot write"):
        JsonLines(tmp_path / "file" / "a.jsonl", 0)


def test_plain_lines_show_step_losses_speed_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress("student", 10, 0, 4, shown=True) as progress:
        progress.step(1, {"box": 0.5, "mimic": 2.0}, 0.5)
        progress.step(2, {"box": 0.5, "mimic": 2.0}, 0.5)  # too soon for another line
        progress.step(10, {"box": 0.25, "mimic": 1.0}, 0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "student 1/10 loss 2.5 (box 0.5 mimic 2) 8.0 images/s, 0:04 left",
        "student 10/10 loss 1.25 (box 0.25 mimic 1) 8.0 images/s, 0:00 left",
    ]


def test_nothing_is_shown_where_it_is_not_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress("student", 10, 0, 4, shown=False) as progress:
        progress.step(1, {"box": 0.5}, 0.5)
        progress.note("done")
    assert capsys.readouterr().err == ""


def test_durations_read_well() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.6, 125, 3723)] == ["0:00", "1:00", "2:05", "1:02:03"]
