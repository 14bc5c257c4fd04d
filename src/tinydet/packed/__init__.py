"""The packed file: entropy-coded weights, the graph and everything a detector needs, in one small file.

`write_packed(path, PackedFile(graph, tensors, metadata))` and `read_packed(path)` are all that most users need;
docs/packed-format.md describes every byte.
"""

from tinydet.packed.dtypes import BFLOAT16, FLOAT8_E4M3, FLOAT8_E5M2
from tinydet.packed.limits import Limits, PackedFileError
from tinydet.packed.packed_file import PackedFile, PackedReport, describe, pack, read_packed, write_packed

__all__ = [
    "BFLOAT16",
    "FLOAT8_E4M3",
    "FLOAT8_E5M2",
    "Limits",
    "PackedFile",
    "PackedFileError",
    "PackedReport",
    "describe",
    "pack",
    "read_packed",
    "write_packed",
]
