"""Packed weights against general compressors: bytes, and milliseconds to pack and unpack.

    python benchmarks/packed_size.py WEIGHTS... [--json FILE]

WEIGHTS are .safetensors or .npz files, or the folders of checkpoints or runs. The general compressors are run over the
.safetensors form of the same tensors (an .npz is often compressed already), as `zip -9`, `xz -9` (and `-9e`) and
`zstd -19`; one that is not installed is left out. Every packed file is unpacked again and compared bit for bit. Of a
checkpoint the whole detector's file is measured too, as `tinydet export` writes it, graph and description included.
Times are the median of several runs.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tinydet
from tinydet.files import write_json
from tinydet.packed import PackedFile, describe, pack, read_packed
from tinydet.packed.archives import read_archive, write_archive

COMPRESSORS = {
    "zip -9": ["zip", "-9", "-q", "-"],
    "xz -9": ["xz", "-9", "-c"],
    "xz -9e": ["xz", "-9e", "-c"],
    "zstd -19": ["zstd", "-19", "-q", "-c"],
}


def median_ms(action: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def detector_bytes(checkpoint: Path) -> int:
    """Bytes of the file that `tinydet export` writes."""
    from tinydet.export import export_detector
    from tinydet.training.checkpoint import load_checkpoint

    detector, info = load_checkpoint(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "detector.tinydet"
        return export_detector(detector, file, "packed", metrics=info.metrics, run=info.extra).file_bytes


def measure(given: Path) -> dict[str, Any]:
    path, whole = given, {}
    if given.is_dir():
        from tinydet.training.checkpoint import checkpoint_in

        path, whole = checkpoint_in(given) / "model.safetensors", {"detector_file_bytes": detector_bytes(given)}
    tensors = read_archive(path)
    content = pack(PackedFile(tensors=tensors))
    again = read_packed(content).tensors
    for name, array in tensors.items():
        if again[name].tobytes() != array.tobytes() or again[name].shape != array.shape:
            raise SystemExit(f"{path}: tensor {name} came back altered")
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.safetensors"
        write_archive(plain, tensors)
        sizes = {
            name: len(subprocess.run([*command, str(plain)], capture_output=True, check=True).stdout)
            for name, command in COMPRESSORS.items()
            if shutil.which(command[0])
        }
        plain_bytes = plain.stat().st_size
    return {
        "file": str(given),
        "values": sum(array.size for array in tensors.values()),
        "file_bytes": path.stat().st_size,
        "safetensors_bytes": plain_bytes,
        **{f"{name} bytes": size for name, size in sizes.items()},
        "packed_bytes": len(content),
        **whole,
        "kind_bytes": {kind: round(size) for kind, size in describe(content).kind_bytes.items()},
        "pack_ms": median_ms(lambda: pack(PackedFile(tensors=tensors)), 3),
        "unpack_ms": median_ms(lambda: read_packed(content), 9),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="+", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [measure(path) for path in arguments.weights]
    for row in rows:
        print(f"{row['file']}: {row['values']:,} values")
        for name, value in row.items():
            if name.endswith("bytes") and isinstance(value, int):
                label = name.removesuffix("bytes").strip(" _")
                print(f"  {label:12} {value:>12,} bytes  {value / row['safetensors_bytes']:7.2%}")
        print(f"  pack {row['pack_ms']:.0f} ms, unpack {row['unpack_ms']:.1f} ms")
    if arguments.json:
        write_json(arguments.json, {"tinydet": getattr(tinydet, "__version__", None), "rows": rows})
    smallest = all(
        row["packed_bytes"] < value
        for row in rows
        for name, value in row.items()
        if name.startswith(("zip", "xz", "zstd"))
    )
    print("packed is the smallest of all" if smallest else "a general compressor is smaller somewhere")
    return int(not smallest)


if __name__ == "__main__":
    sys.exit(main())
