"""Which splits of a data set are trained and tested on, when nobody says."""

from __future__ import annotations

from dataclasses import dataclass

from tinydet.datasets.split import split_dataset
from tinydet.errors import InputError
from tinydet.records import Dataset


@dataclass(frozen=True, eq=False)
class Selection:
    """A data set, and the names of its two splits in use."""

    dataset: Dataset
    train: str
    test: str


def select_splits(dataset: Dataset, train: str | None = None, test: str | None = None, seed: int = 0) -> Selection:
    """The splits asked for, else the usual ones.

    Tested on is `test`, else `val`; trained on is `trainval` where that leaves the test split out, else `train`. A set
    with one split alone is divided 80/20 by `seed`.

    Raises:
        InputError: a split asked for does not exist, or the two are the same.
    """
    for name in (train, test):
        if name is not None:
            dataset.split(name)
    if train is None and test is None and len(dataset.splits) == 1:
        dataset = split_dataset(dataset, (0.8, 0.2), seed)
        return Selection(dataset, "train", "val")
    test = test or _first(dataset, ("test", "val"), excluding=train)
    train = train or _first(dataset, ("trainval", "train") if test != "val" else ("train",), excluding=test)
    if train == test:
        raise InputError(f"{dataset.name}: trained and tested on the same split {train!r}")
    return Selection(dataset, train, test)


def _first(dataset: Dataset, names: tuple[str, ...], excluding: str | None) -> str:
    for name in names:
        if name in dataset.splits and name != excluding:
            return name
    raise InputError(
        f"{dataset.name} has the splits {', '.join(sorted(dataset.splits))}; name those to train and to test on"
    )
