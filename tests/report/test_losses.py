from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tinydet.errors import InputError
from tinydet.report.losses import ordered_components, read_losses, share_of_sum, thinned


def test_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "losses.jsonl"
    path.write_text("")
    log = read_losses(path)
    assert len(log.steps) == 0
    assert log.losses == {}


def test_the_later_of_two_lines_of_a_step_counts_and_a_cut_last_line_does_not(tmp_path: Path) -> None:
    path = tmp_path / "losses.jsonl"
    path.write_text(
        '{"step": 1, "lr": 0.1, "losses": {"a": 5}}\n{"step": 2, "lr": 0.1, "losses": {"a": 4, "b": 1}}\n'
        '{"step": 1, "lr": 0.1, "losses": {"a": 3}}\n{"step": 3, "lr": 0.1, "los'
    )
    log = read_losses(path)
    assert log.steps.tolist() == [1, 2]
    assert log.losses["a"].tolist() == [3, 4]
    assert np.isnan(log.losses["b"][0])
    assert log.losses["b"][1] == 1


def test_a_line_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "losses.jsonl"
    path.write_text('{"step": 1, "losses": {}}\n{"step": 1}\n{"step": 2, "losses": {}}\n')
    with pytest.raises(InputError, match=r"losses\.jsonl:2"):
        read_losses(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_losses(tmp_path / "absent.jsonl")


def test_the_log_of_the_training_loop_is_read(tmp_path: Path) -> None:
    logs = pytest.importorskip("tinydet.training.logs", reason="needs the train extra")
    run_log = logs.RunLog(tmp_path, resumed_step=0, every=10)
    for step in (1, 2):
        run_log.step(step, 0.01, {"proposal_class": 0.7, "mimic": 0.1 * step}, 3.0)
    run_log.flush()
    run_log.close()
    log = read_losses(tmp_path / "losses.jsonl")
    assert log.steps.tolist() == [1, 2]
    assert log.losses["mimic"] == pytest.approx([0.1, 0.2])


def test_thinning_takes_the_mean_of_each_bin(tmp_path: Path) -> None:
    path = tmp_path / "losses.jsonl"
    path.write_text("".join(f'{{"step": {i}, "losses": {{"a": {i}}}}}\n' for i in [0, 1, 2, 3, 9]))
    means = thinned(read_losses(path), "a", np.array([0.0, 2.0, 4.0, 6.0, 10.0]))
    assert means[[0, 1, 3]].tolist() == [0.5, 2.5, 9]
    assert np.isnan(means[2])


def test_the_share_of_the_sum(tmp_path: Path) -> None:
    path = tmp_path / "losses.jsonl"
    path.write_text('{"step": 1, "losses": {"mimic": 3, "b": 1}}\n{"step": 2, "losses": {"mimic": 0, "b": 0}}\n')
    assert share_of_sum(read_losses(path), "mimic").losses["mimic"].tolist() == [0.75, 0]


def test_components_come_in_the_networks_order() -> None:
    assert ordered_components({"z", "mimic", "proposal_class", "a"}) == ["proposal_class", "mimic", "a", "z"]
