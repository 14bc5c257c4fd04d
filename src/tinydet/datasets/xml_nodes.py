"""XML with line numbers. A document type declaration is refused: nothing from outside may define entities here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from tinydet.datasets.faults import EMPTY_FILE, MALFORMED_FILE, MISSING_LABEL, reject


@dataclass
class Node:
    """An XML element.

    Attributes:
        line: where its opening tag stands, from 1.
        text: directly in it, stripped.
    """

    tag: str
    line: int
    text: str = ""
    children: list[Node] = field(default_factory=list)

    def child(self, tag: str) -> Node | None:
        return next((child for child in self.children if child.tag == tag), None)

    def all(self, tag: str) -> list[Node]:
        return [child for child in self.children if child.tag == tag]

    def text_of(self, tag: str, default: str = "") -> str:
        child = self.child(tag)
        return default if child is None else child.text


class _Builder:
    def __init__(self, path: Path) -> None:
        self.root: Node | None = None
        self._path = path
        self._open: list[Node] = []
        self._texts: list[list[str]] = []
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._doctype

    def parse(self, content: bytes) -> None:
        self._parser.Parse(content, True)

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        node = Node(tag, self._parser.CurrentLineNumber)
        if self._open:
            self._open[-1].children.append(node)
        else:
            self.root = node
        self._open.append(node)
        self._texts.append([])

    def _end(self, tag: str) -> None:
        self._open.pop().text = "".join(self._texts.pop()).strip()

    def _text(self, text: str) -> None:
        self._texts[-1].append(text)

    def _doctype(self, *_: object) -> None:
        line = self._parser.CurrentLineNumber
        reject(MALFORMED_FILE, self._path, "holds a document type declaration, which is refused; remove it", line)


def read_xml(path: Path) -> Node:
    """The root element of an XML file.

    Raises:
        Faulty: the file is missing, empty, not well formed, or declares a document type.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        reject(MISSING_LABEL, path, "there is no such annotation file")
    except OSError as error:
        reject(MALFORMED_FILE, path, f"cannot be read: {error.strerror or error}")
    if not content.strip():
        reject(EMPTY_FILE, path, "the annotation file is empty")
    builder = _Builder(path)
    try:
        builder.parse(content)
    except (expat.ExpatError, ValueError, LookupError) as error:
        line = getattr(error, "lineno", None)
        reject(MALFORMED_FILE, path, f"not well-formed XML: {error}", line)
    assert builder.root is not None  # expat refuses a document without an element
    return builder.root
