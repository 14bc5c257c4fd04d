"""Model files: `.onnx` and `.tinydet`, told apart by their first bytes."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from tinydet.errors import InputError
from tinydet.packed import read_packed
from tinydet.packed.limits import PackedFileError
from tinydet.packed.onnx_weights import join_onnx
from tinydet.packed.sections import MAGIC
from tinydet.packed.wire import fields
from tinydet.runtime.description import METADATA_KEY, ModelDescription, read_description

_MODEL_METADATA, _ENTRY_KEY, _ENTRY_VALUE = 14, 1, 2  # field numbers of onnx.proto3


@dataclass(frozen=True)
class ModelFile:
    """A model, ready for an engine.

    Attributes:
        onnx: the serialized ONNX model.
        file_bytes: of the file as it was.
        sha256: of the file as it was.
        kind: `onnx` or `tinydet`.
    """

    onnx: bytes
    description: ModelDescription
    file_bytes: int
    sha256: str
    kind: str


def read_model(source: str | os.PathLike[str] | bytes) -> ModelFile:
    """A model from a path or from its bytes.

    Raises:
        InputError: no such file, damaged, or not a detector that tinydet exported.
    """
    content, where = _content(source)
    digest = hashlib.sha256(content).hexdigest()
    if content.startswith(MAGIC):
        try:
            packed = read_packed(content)
            if packed.graph is None:
                raise PackedFileError("holds weights alone, without a graph: unpack it with `tinydet unpack`")
            onnx = join_onnx(packed.graph, packed.tensors)
        except PackedFileError as error:
            raise InputError(f"{where}: {str(error).removeprefix('these bytes: ')}") from None
        return ModelFile(onnx, read_description(packed.metadata, where), len(content), digest, "tinydet")
    plain = _onnx_metadata(content, where)
    return ModelFile(content, read_description(plain, where), len(content), digest, "onnx")


def _content(source: str | os.PathLike[str] | bytes) -> tuple[bytes, str]:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), "these bytes"
    path = Path(source)
    if path.is_dir():
        raise InputError(f"{path}: a folder; for a checkpoint use `tinydet export` first, or `detector_for`")
    try:
        return path.read_bytes(), str(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _onnx_metadata(content: bytes, where: str) -> object:
    """The description in an ONNX file; None where there is none."""
    try:
        for field in fields(content):
            if field.number == _MODEL_METADATA:
                entry = {inner.number: inner.as_bytes() for inner in fields(field.as_bytes())}
                if entry.get(_ENTRY_KEY, b"").decode() == METADATA_KEY:
                    return json.loads(entry.get(_ENTRY_VALUE, b""))
    except (PackedFileError, ValueError) as error:
        raise InputError(f"{where}: neither a packed file nor an ONNX model, or damaged: {error}") from None
    return None
