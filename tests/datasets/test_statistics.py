from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from tinydet.datasets import dataset_statistics, open_dataset
from tinydet.datasets.statistics import plot_statistics, print_statistics
from tinydet.errors import MissingExtraError
from tinydet.records import Dataset

EMPTY = Dataset("empty", ("a", "b"), {"all": ()})


def test_an_empty_set_has_counts_and_no_distributions(tmp_path):
    statistics = dataset_statistics(EMPTY)
    assert statistics.splits["all"].boxes_by_class == {"a": 0, "b": 0}
    assert statistics.box_side_px is None
    plot_statistics(EMPTY, tmp_path / "empty.png")
    assert Image.open(tmp_path / "empty.png").size[0] > 500


def test_counts_by_hand(voc_root):
    statistics = dataset_statistics(open_dataset(voc_root))
    train, val = statistics.splits["train"], statistics.splits["val"]
    assert (train.images, train.boxes, train.difficult, train.empty_images) == (2, 3, 1, 0)
    assert (train.boxes_by_class, train.images_by_class) == ({"cat": 1, "dog": 2}, {"cat": 1, "dog": 2})
    assert (val.boxes_by_class, val.images_by_class, val.empty_images) == (
        {"cat": 2, "dog": 0},
        {"cat": 1, "dog": 0},
        1,
    )
    sides = np.sqrt([60 * 40, 16 * 25, 10 * 10, 10.25 * 10.25, 12 * 11])  # each image once
    assert statistics.box_side_px["50"] == pytest.approx(np.median(sides), abs=1e-4)
    assert statistics.box_share["100"] == 1
    assert statistics.aspect_ratio["100"] == 1.5
    assert statistics.boxes_by_size == {"small": 4, "medium": 1, "large": 0}
    assert statistics.image_sizes == {"60x40": 4}


def test_the_tables_name_splits_and_classes(voc_root):
    from rich.console import Console

    out = io.StringIO()
    print_statistics(dataset_statistics(open_dataset(voc_root)), Console(file=out, width=120))
    for words in ("trainval", "dog", "2 (2)", "width / height", "4 small, 1 medium, 0 large", "60x40 (4)"):
        assert words in out.getvalue()


def test_a_plot_without_matplotlib_names_the_extra(voc_root, tmp_path, monkeypatch):
    dataset = open_dataset(voc_root)
    plot_statistics(dataset, tmp_path / "plot.png")
    assert np.asarray(Image.open(tmp_path / "plot.png")).std() > 10
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"tinydet\[plots\]"):
        plot_statistics(dataset, tmp_path / "none.png")
