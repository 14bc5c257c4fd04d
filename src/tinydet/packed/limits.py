"""What a reader will not go beyond, and the error that says so."""

from __future__ import annotations

from dataclasses import dataclass

from tinydet.errors import InputError


class PackedFileError(InputError):
    """A packed file, or a weights archive, is damaged, hostile, or of a kind that this version cannot read."""


@dataclass(frozen=True)
class Limits:
    """Bounds that are checked against what a file declares, before anything is allocated.

    Attributes:
        max_tensor_bytes: of all tensors together, once decoded.
        max_tensors: number of tensors.
        max_graph_bytes: of the graph, once decompressed.
        max_metadata_bytes: of the metadata, once decompressed.
        free_bytes: a file of any size may hold this many bytes of tensors ...
        max_expansion: ... and this many more for each of its own bytes, so that a small file cannot ask for much.
    """

    max_tensor_bytes: int = 1 << 30
    max_tensors: int = 1 << 14
    max_graph_bytes: int = 64 << 20
    max_metadata_bytes: int = 16 << 20
    free_bytes: int = 4 << 20
    max_expansion: int = 1024

    @property
    def max_file_bytes(self) -> int:
        """No file within the other limits is larger."""
        return self.max_tensor_bytes + self.max_graph_bytes + self.max_metadata_bytes + (64 << 20)

    def tensor_bytes_for(self, file_bytes: int) -> int:
        """How many bytes of tensors a file of this size may hold."""
        return min(self.max_tensor_bytes, self.free_bytes + self.max_expansion * file_bytes)
