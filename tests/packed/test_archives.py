from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tinydet.errors import InputError
from tinydet.packed import BFLOAT16, Limits, PackedFileError
from tinydet.packed.archives import read_archive, write_archive

TENSORS = {
    "b.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a": np.array([True, False]),
    "codes": np.array([[-128, 127]], np.int8),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 2), np.float16),
}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return set(first) == set(second) and all(
        array.dtype == second[name].dtype
        and array.shape == second[name].shape
        and array.tobytes() == second[name].tobytes()
        for name, array in first.items()
    )


def test_safetensors_of_the_reference_library_both_ways(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    safetensors.numpy.save_file(TENSORS, path, metadata={"format": "pt"})
    assert same(read_archive(path), TENSORS)
    write_archive(tmp_path / "ours.safetensors", TENSORS)
    assert same(safetensors.numpy.load_file(tmp_path / "ours.safetensors"), TENSORS)


def test_npz_of_numpy_both_ways(tmp_path: Path) -> None:
    path = tmp_path / "theirs.npz"
    big_endian = np.arange(5, dtype=">i4")
    np.savez_compressed(path, fortran=np.asfortranarray(TENSORS["b.weight"]), big=big_endian, **TENSORS)
    found = read_archive(path)
    assert same({name: found[name] for name in TENSORS}, TENSORS)
    assert (found["fortran"] == TENSORS["b.weight"]).all()
    assert (found["big"] == big_endian).all()
    write_archive(tmp_path / "ours.npz", TENSORS)
    with np.load(tmp_path / "ours.npz", allow_pickle=False) as archive:
        assert same(dict(archive), TENSORS)


def test_bfloat16_from_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    values = torch.randn(33).to(torch.bfloat16)
    save_file({"x": values}, tmp_path / "a.safetensors")
    found = read_archive(tmp_path / "a.safetensors")
    assert found["x"].dtype == BFLOAT16
    write_archive(tmp_path / "b.safetensors", found)
    assert torch.equal(load_file(tmp_path / "b.safetensors")["x"], values)
    write_archive(tmp_path / "c.npz", found)
    assert same(read_archive(tmp_path / "c.npz"), found)


def written(path: Path, header: object, content: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "content", "message"),
    [
        (b"{", b"", "not JSON"),
        (b"\xff\xfe", b"", "not JSON"),
        (b"[" * 50_000, b"", "not JSON"),
        (b"[]", b"", "not a JSON object"),
        (b'{"a": 1, "a": 2}', b"", "comes twice"),
        ({"a": 5}, b"", "lacks dtype"),
        ({"a": {"dtype": "F32", "shape": [1]}}, b"1234", "lacks dtype"),
        ({"a": entry(0, 4, [1], "F99")}, b"1234", "cannot be packed"),
        ({"a": entry(0, 4, [2])}, b"1234", "do not fit"),
        ({"a": entry(0, 8, [2])}, b"1234", "do not fit"),
        ({"a": entry(4, 8, [1])}, b"12345678", "do not fit"),
        ({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, b"1234", "do not fit"),
        ({"a": entry(0, 4, [1])}, b"12345", "after the last"),
        ({"a": entry(0, 4, [-1, -1])}, b"1234", "shape"),
        ({"a": entry(0, 4, [1 << 60])}, b"1234", "shape"),
        ({"a": entry(0, 4, [1.0])}, b"1234", "shape"),  # type: ignore[list-item]
        ({"a": entry(0, 4, [1] * 40)}, b"1234", "shape"),
    ],
)
def test_damaged_safetensors(tmp_path: Path, header: object, content: bytes, message: str) -> None:
    with pytest.raises(PackedFileError, match=message) as raised:
        read_archive(written(tmp_path / "a.safetensors", header, content))
    assert "a.safetensors" in str(raised.value)


@pytest.mark.parametrize(
    "content", [b"", b"1234567", (1 << 63).to_bytes(8, "little"), (9).to_bytes(8, "little") + b"{}"]
)
def test_safetensors_that_are_cut_short(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(PackedFileError, match="not a safetensors file"):
        read_archive(path)


def test_no_pickle_is_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", objects=np.array([{"a": 1}], dtype=object))
    with pytest.raises(PackedFileError, match="objects"):
        read_archive(tmp_path / "a.npz")


def test_damaged_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK nothing")
    with pytest.raises(PackedFileError, match=r"a\.npz: not a readable"):
        read_archive(path)
    np.savez(path, a=np.arange(1000.0))
    altered = bytearray(path.read_bytes())
    altered[300] ^= 1
    path.write_bytes(altered)
    with pytest.raises(PackedFileError, match="not a readable"):
        read_archive(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "a.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999,)}"
        )
    with pytest.raises(PackedFileError):
        read_archive(path)


def test_limits(tmp_path: Path) -> None:
    for name in ("a.npz", "a.safetensors"):
        write_archive(tmp_path / name, {"zeros": np.zeros(1 << 20, np.float32)})
        with pytest.raises(PackedFileError, match="more than the"):
            read_archive(tmp_path / name, Limits(max_tensor_bytes=1 << 20))


def test_names_of_other_endings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.safetensors or \.npz"):
        read_archive(tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"\.safetensors or \.npz"):
        write_archive(tmp_path / "weights.bin", {})
    with pytest.raises(InputError, match="no such file"):
        read_archive(tmp_path / "weights.npz")
    with pytest.raises(InputError, match=r"safetensors has no type.*use \.npz"):
        write_archive(tmp_path / "a.safetensors", {"z": np.zeros(2, complex)})
