from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinydet.packed import PackedFile, write_packed
from tinydet.packed.archives import read_archive, write_archive


def tinydet(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tinydet", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


TENSORS = {
    "a.weight": np.linspace(-1, 1, 900).astype(np.float32).reshape(30, 30),
    "b": np.arange(9, dtype=np.int8),
}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_pack_and_unpack(tmp_path: Path, suffix: str) -> None:
    weights, back = tmp_path / f"w{suffix}", tmp_path / f"back{suffix}"
    write_archive(weights, TENSORS)
    packed = tinydet("pack", weights, "--json", tmp_path / "figures.json")
    assert packed.returncode == 0, packed.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["packed_bytes"] == (tmp_path / "w.tinydet").stat().st_size
    unpacked = tinydet("unpack", tmp_path / "w.tinydet", "-o", back)
    assert unpacked.returncode == 0, unpacked.stderr
    again = read_archive(back)
    assert all(again[name].tobytes() == array.tobytes() for name, array in TENSORS.items())


def test_inspect(tmp_path: Path) -> None:
    path = tmp_path / "d.tinydet"
    write_packed(path, PackedFile(b"graph", TENSORS, {"classes": ["cat[/]", "dog"]}))
    shown = tinydet("inspect", path)
    assert shown.returncode == 0, shown.stderr
    for text in ("detector", "a.weight", "30x30", "graph", "cat[/]"):
        assert text in shown.stdout
    figures = json.loads(tinydet("inspect", path, "--json", "-").stdout)
    assert [tensor["name"] for tensor in figures["tensors"]] == list(TENSORS)
    assert figures["metadata"] == {"classes": ["cat[/]", "dog"]}


def test_mistakes_are_one_message_and_status_2(tmp_path: Path) -> None:
    (tmp_path / "text.tinydet").write_text("hello, this is text")
    (tmp_path / "w.safetensors").write_bytes(b"short")
    for arguments, message in (
        (("pack", tmp_path / "none.npz"), "no such file"),
        (("pack", tmp_path / "w.pth"), ".safetensors or .npz"),
        (("pack", tmp_path / "w.safetensors"), "not a safetensors file"),
        (("inspect", tmp_path / "text.tinydet"), "is not a packed file"),
        (("unpack", tmp_path / "text.tinydet", "-o", tmp_path / "a.npz"), "is not a packed file"),
    ):
        found = tinydet(*arguments)
        assert found.returncode == 2
        assert message in found.stderr
        assert "Traceback" not in found.stderr
