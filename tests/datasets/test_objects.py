from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tinydet.datasets.objects import fit_box

numbers = st.floats(allow_nan=True, allow_infinity=True, width=32) | st.integers(-5, 70).map(float)


@given(st.tuples(numbers, numbers, numbers, numbers), st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_what_is_kept_lies_in_the_image_and_has_an_area(box, size_hw):
    kept, kind, message = fit_box(box, size_hw)
    assert (kind is None) == (message == "")
    if kept is None:
        assert kind is not None
        return
    x1, y1, x2, y2 = kept
    assert 0 <= x1 < x2 <= size_hw[1]
    assert 0 <= y1 < y2 <= size_hw[0]
    if kind is None:
        assert all(math.fabs(a - b) <= 1.001 for a, b in zip(kept, box))
