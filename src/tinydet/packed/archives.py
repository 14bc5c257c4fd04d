"""Plain archives of named tensors, `.safetensors` and `.npz`, read and written without their packages.

The safetensors format is described at https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydet.errors import InputError
from tinydet.files import replacing, write_bytes
from tinydet.packed.dtypes import ELEMENT_TYPES, element_index
from tinydet.packed.limits import Limits, PackedFileError

Array = NDArray[Any]
ARCHIVE_SUFFIXES = (".safetensors", ".npz")

_BY_SAFETENSORS_NAME = {element.safetensors: element.dtype for element in ELEMENT_TYPES if element.safetensors}
_MAX_HEADER_BYTES = 100_000_000


def read_archive(path: str | os.PathLike[str], limits: Limits | None = None) -> dict[str, Array]:
    """The tensors of a `.safetensors` or `.npz` file, in the file's order.

    Raises:
        PackedFileError: the file is damaged, or holds more than `limits` allow.
        InputError: there is no such file, or its name ends in neither.
    """
    limits = limits or Limits()
    suffix = _suffix(path)
    try:
        return _read_safetensors(path, limits) if suffix == ".safetensors" else _read_npz(path, limits)
    except FileNotFoundError:
        raise InputError(f"{os.fspath(path)}: no such file") from None
    except PackedFileError as error:
        raise PackedFileError(f"{os.fspath(path)}: {error}") from None
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: cannot be read: {error.strerror or error}") from error


def write_archive(path: str | os.PathLike[str], tensors: Mapping[str, Array]) -> None:
    """Write tensors as `.safetensors` or `.npz`, whole or not at all; the name's ending decides.

    Raises:
        InputError: another ending, or an element type that the format has no name for.
        TinydetError: the file cannot be written.
    """
    if _suffix(path) == ".safetensors":
        write_bytes(path, _safetensors_bytes(path, tensors))
        return
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in tensors.items():
            # A fixed date, so that the same tensors make the same file.
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def _suffix(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in ARCHIVE_SUFFIXES:
        raise InputError(f"{os.fspath(path)}: expected a name that ends in {' or '.join(ARCHIVE_SUFFIXES)}")
    return suffix


def _read_npz(path: str | os.PathLike[str], limits: Limits) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > limits.max_tensors:
                raise PackedFileError(f"{len(entries):,} tensors, more than the {limits.max_tensors:,} allowed")
            declared = sum(entry.file_size for entry in entries)
            if declared > limits.max_tensor_bytes + 4096 * len(entries):  # each has a short header of its own
                raise PackedFileError(f"{declared:,} bytes, more than the {limits.max_tensor_bytes:,} allowed")
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                if name in tensors:
                    raise PackedFileError(f"two tensors are named {name!r}")
                with archive.open(entry) as member:
                    tensors[name] = _read_npy(member, entry.file_size, name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise PackedFileError(f"not a readable .npz archive: {error}") from None
    return tensors


def _read_npy(member: Any, file_bytes: int, name: str) -> Array:
    try:
        version = np.lib.format.read_magic(member)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reader(member, max_header_size=10000)
    except ValueError as error:
        raise PackedFileError(f"tensor {name}: not an array: {error}") from None
    if element_index(dtype) is None:
        raise PackedFileError(f"tensor {name}: elements of type {dtype} cannot be packed")
    tensor_bytes = prod(shape) * dtype.itemsize
    if tensor_bytes > file_bytes or min(shape, default=0) < 0:
        raise PackedFileError(f"tensor {name}: shape {list(shape)} of {dtype} in {file_bytes:,} bytes")
    content = member.read(tensor_bytes)
    if len(content) != tensor_bytes or member.read(1):
        raise PackedFileError(f"tensor {name}: not the {tensor_bytes:,} bytes that its shape {list(shape)} takes")
    flat = np.frombuffer(content, dtype)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _read_safetensors(path: str | os.PathLike[str], limits: Limits) -> dict[str, Array]:
    file_bytes = os.path.getsize(path)
    with open(path, "rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if file_bytes < 8 or header_bytes > min(_MAX_HEADER_BYTES, file_bytes - 8):
            raise PackedFileError(f"not a safetensors file: {file_bytes:,} bytes, a header of {header_bytes:,}")
        if file_bytes - 8 - header_bytes > limits.max_tensor_bytes:
            raise PackedFileError(f"{file_bytes:,} bytes, more than the {limits.max_tensor_bytes:,} allowed")
        try:
            header = json.loads(file.read(header_bytes).decode(), object_pairs_hook=_no_duplicates)
        except (ValueError, RecursionError) as error:
            raise PackedFileError(f"not a safetensors file: its header is not JSON: {error}") from None
        content = file.read()
    if not isinstance(header, dict):
        raise PackedFileError("not a safetensors file: its header is not a JSON object")
    header.pop("__metadata__", None)
    if len(header) > limits.max_tensors:
        raise PackedFileError(f"{len(header):,} tensors, more than the {limits.max_tensors:,} allowed")
    tensors, end = {}, 0
    for name, begin, entry_end, dtype, shape in sorted(_entries(header), key=lambda entry: entry[1:3]):
        if begin != end or entry_end - begin != prod(shape) * dtype.itemsize or entry_end > len(content):
            raise PackedFileError(f"tensor {name}: bytes {begin} to {entry_end} do not fit its shape {list(shape)}")
        tensors[name] = np.frombuffer(content, dtype, prod(shape), begin).reshape(shape)
        end = entry_end
    if end != len(content):
        raise PackedFileError(f"{len(content) - end:,} bytes after the last tensor")
    return {name: tensors[name] for name in header}


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _entries(header: dict[str, Any]) -> list[tuple[str, int, int, np.dtype[Any], tuple[int, ...]]]:
    entries = []
    for name, entry in header.items():
        try:
            dtype = _BY_SAFETENSORS_NAME.get(entry["dtype"])
            numbers = [*entry["data_offsets"], *entry["shape"]]
            begin, end, *shape = numbers
        except (TypeError, KeyError, ValueError):
            raise PackedFileError(f"tensor {name}: its entry lacks dtype, shape or data_offsets") from None
        if dtype is None:
            raise PackedFileError(f"tensor {name}: elements of type {entry['dtype']!r} cannot be packed")
        if len(shape) > 32 or not all(type(number) is int and 0 <= number < 1 << 48 for number in numbers):
            raise PackedFileError(f"tensor {name}: shape {entry['shape']}, bytes {entry['data_offsets']}")
        entries.append((name, begin, end, dtype, tuple(shape)))
    return entries


def _safetensors_bytes(path: str | os.PathLike[str], tensors: Mapping[str, Array]) -> bytes:
    header: dict[str, Any] = {}
    parts = []
    end = 0
    for name, array in tensors.items():
        index = element_index(array.dtype)
        element = None if index is None else ELEMENT_TYPES[index]
        if element is None or element.safetensors is None:
            raise InputError(f"{os.fspath(path)}: tensor {name}: safetensors has no type for {array.dtype}; use .npz")
        content = np.ascontiguousarray(array, dtype=element.dtype).tobytes()
        header[name] = {
            "dtype": element.safetensors,
            "shape": list(array.shape),
            "data_offsets": [end, end + len(content)],
        }
        end += len(content)
        parts.append(content)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors begin at a multiple of eight
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])
