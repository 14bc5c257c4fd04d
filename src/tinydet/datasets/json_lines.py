"""Which line of a JSON file an element stands on, which Python's parser does not tell."""

from __future__ import annotations

import json
import re

_SPACE = re.compile(r"[ \t\r\n]*")


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()


def element_lines(text: str, key: str) -> list[int]:
    """The line, from 1, of each element of the array under `key` of the object that is the whole (valid) file.

    Empty where there is no such array. It reads the file again, so ask only when something is wrong.
    """
    decoder = json.JSONDecoder()
    position = _skip(text, 0) + 1  # after the opening brace
    while text[position := _skip(text, position)] == '"':
        name, position = decoder.raw_decode(text, position)
        position = _skip(text, _skip(text, position) + 1)  # after the colon
        if name == key and text[position] == "[":
            return _array_lines(text, position + 1, decoder)
        _, position = decoder.raw_decode(text, position)
        position = _skip(text, position)
        if text[position] == ",":
            position += 1
    return []


def _array_lines(text: str, position: int, decoder: json.JSONDecoder) -> list[int]:
    lines: list[int] = []
    line, counted_to = 1, 0
    while text[position := _skip(text, position)] != "]":
        line += text.count("\n", counted_to, position)
        counted_to = position
        lines.append(line)
        _, position = decoder.raw_decode(text, position)
        position = _skip(text, position)
        if text[position] == ",":
            position += 1
    return lines
