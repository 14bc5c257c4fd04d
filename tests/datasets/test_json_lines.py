from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tinydet.datasets.json_lines import element_lines

values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_empty():
    assert element_lines("{}", "a") == []
    assert element_lines('{"a": []}', "a") == []
    assert element_lines('{"b": [1]}', "a") == []
    assert element_lines('{"a": 3}', "a") == []


@given(st.lists(values, max_size=5), values, st.sampled_from([None, 1, 3]))
def test_an_element_stands_on_the_line_that_is_said(elements, before, indent):
    marked = [{"mark": number, "value": element} for number, element in enumerate(elements)]
    text = "\n" + json.dumps({"before": before, "list": marked, "after": 1}, indent=indent)
    lines = text.split("\n")
    found = element_lines(text, "list")
    assert len(found) == len(marked)
    for number, line in enumerate(found):
        start = lines[line - 1] if indent is None else "".join(lines[line - 1 : line + 1]).replace(" ", "")
        assert f'"mark":{number}' in start.replace(" ", "")
