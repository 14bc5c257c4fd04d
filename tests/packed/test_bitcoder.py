from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydet.packed.bitcoder import BitReader, BitWriter
from tinydet.packed.limits import PackedFileError

Step = tuple[str, int, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("bit"), st.integers(0, 3), st.integers(0, 1)),
        st.tuples(st.just("uint"), st.integers(0, 2), st.integers(0, 1 << 62)),
        st.tuples(st.just("sint"), st.integers(0, 2), st.integers(-(1 << 40), 1 << 40)),
        st.tuples(st.just("even"), st.just(17), st.integers(0, (1 << 17) - 1)),
    ),
    max_size=60,
)


def walk(coder: BitReader | BitWriter, steps: list[Step], writing: bool) -> list[int]:
    found = []
    for kind, context, value in steps:
        found.append(getattr(coder, kind)(context if kind == "even" else (kind, context), value if writing else None))
    return found


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_what_was_written_is_read(steps: list[Step]) -> None:
    writer = BitWriter()
    walk(writer, steps, True)
    assert walk(BitReader(writer.finish()), steps, False) == [value for _, _, value in steps]


def test_many_zeros_at_the_end_are_read_back() -> None:
    steps = [("even", 17, 0)] * 40
    writer = BitWriter()
    walk(writer, steps, True)
    assert walk(BitReader(writer.finish()), steps, False) == [0] * 40


def test_carries_run_through_many_bytes() -> None:
    """Unlikely bits next to likely ones push the low end against 0xFFFF...: the sum must carry."""
    rng = random.Random(3)
    for _ in range(20):
        steps = [("bit", 0, int(rng.random() < 0.01)) for _ in range(4000)]
        writer = BitWriter()
        walk(writer, steps, True)
        content = writer.finish()
        assert walk(BitReader(content), steps, False) == [value for _, _, value in steps]
        assert len(content) < 4000 * 0.17 / 8  # the entropy of one in a hundred is 0.081 bits


def test_an_end_that_comes_too_early() -> None:
    reader = BitReader(b"\x12\x34")
    with pytest.raises(PackedFileError, match="too early"):
        reader.even(1000)
