"""Tensors to bytes and back, bit for bit."""

from __future__ import annotations

import lzma
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinydet.packed.decoding import decode_tensors, tensor_costs
from tinydet.packed.dtypes import BFLOAT16, ELEMENT_TYPES, FLOAT8_E4M3
from tinydet.packed.encoding import encode_tensors
from tinydet.packed.limits import Limits, PackedFileError

LIMITS = Limits()
Tensors = dict[str, np.ndarray]


def there_and_back(tensors: Tensors) -> bytes:
    content = encode_tensors(tensors)
    again = decode_tensors(content, LIMITS, 1 << 30)
    assert list(again) == list(tensors)
    for name, array in tensors.items():
        assert again[name].dtype == array.dtype.newbyteorder("<")
        assert again[name].shape == array.shape
        assert again[name].tobytes() == np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        again[name][...] = again[name]  # writable
    return content


def coding_of(tensors: Tensors) -> dict[str, str]:
    return {cost.name: cost.coding for cost in tensor_costs(there_and_back(tensors), LIMITS, 1 << 30)}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


def test_nothing() -> None:
    assert len(there_and_back({})) < 16


@pytest.mark.parametrize("element", ELEMENT_TYPES, ids=lambda element: element.name)
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (7,), (5, 4, 3)])
def test_every_type_and_every_bit_pattern(element, shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape)) * element.dtype.itemsize
    raw = np.random.default_rng(size).integers(0, 2 if element.name == "bool" else 256, size).astype(np.uint8)
    there_and_back({"x": raw.view(element.dtype).reshape(shape)})


def test_special_floats_keep_their_bits() -> None:
    words = [0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 0, 1, 0x7F800000, 0xFF800000, 0x807FFFFF]
    special = np.array(words * 50, np.uint32).view(np.float32)
    there_and_back({"special": special, "pruned": np.append(special, np.zeros(900, np.float32))})


def test_minus_zero_is_not_dropped_as_a_zero() -> None:
    values = np.zeros(1000, np.float32)
    values[::7] = -0.0
    there_and_back({"zeros": values})


@given(
    st.lists(
        hnp.arrays(
            st.sampled_from([np.dtype(t) for t in ("f4", "f2", "i1", "u1", "i4", "i8", "?", "f8", "u2", ">f4", ">i2")]),
            hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9),
        ),
        max_size=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_arrays(arrays: list[np.ndarray]) -> None:
    there_and_back({f"t{index}": array for index, array in enumerate(arrays)})


def test_each_kind_of_tensor_gets_the_coding_made_for_it() -> None:
    rng = np.random.default_rng(0)
    dense = noise(64, 64)
    shared = rng.choice(noise(15), (64, 64))
    kept = rng.random((64, 64)) < 0.3
    scales = rng.random(32).astype(np.float32)
    found = coding_of(
        {
            "dense": dense,
            "pruned": np.where(kept, dense, 0),
            "shared": shared,
            "pruned shared": np.where(kept, shared, 0),
            "repeated": dense.copy(),
            "scales": scales,
            "products": scales * np.float32(0.0123),
            "biases": rng.normal(0, 1000, 300).astype(np.int32),
            "ramp": np.arange(4000),
            "noise": rng.integers(0, 256, 3000, np.uint8),
        }
    )
    assert found["dense"] == "planes"
    assert found["pruned"] == "sparse planes"
    assert found["shared"] == "codebook of 15"
    assert found["pruned shared"] in ("codebook of 16", "sparse codebook of 15")
    assert found["repeated"] == "same"
    assert found["products"] == "scaled"
    assert found["biases"] == "lengths"
    assert found["ramp"] == "general"
    assert found["noise"] in ("raw", "planes")


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.int32, np.int64])
def test_zeros_alone_and_beside_others(dtype: type) -> None:
    """A tensor of zeros has no words left once zeros are left out."""
    zeros, shared = np.zeros(64, dtype), np.arange(600).astype(dtype) % 5
    for others in ({}, {"shared": shared}, {"dense": noise(30, 30)}, {"other zeros": np.zeros(7, dtype)}):
        there_and_back({"zeros": zeros, **others})
        there_and_back({**others, "zeros": zeros})


def test_bfloat16_and_float8_keep_their_type() -> None:
    words = np.arange(300, dtype=np.uint16)
    there_and_back({"bf16": words.view(BFLOAT16), "fp8": words[:40].astype(np.uint8).view(FLOAT8_E4M3)})


def test_other_layouts_in_memory() -> None:
    array = noise(12, 10)
    there_and_back({"fortran": np.asfortranarray(array), "strided": array[::2, ::-1], "transposed": array.T})


def test_many_small_tensors_share_what_they_learn() -> None:
    tensors = {f"layer{index}.bn.weight": noise(16, seed=index) for index in range(60)}
    content = there_and_back(tensors)
    assert len(content) < 0.93 * 60 * 64 + 200


@pytest.mark.parametrize("kind", ["dense", "noise", "text", "zeros", "tiny", "int8", "repeats"])
def test_never_larger_than_a_general_compressor(kind: str) -> None:
    rng = np.random.default_rng(0)
    tensors: Tensors = {
        "dense": {"a": noise(64, 32, 3, 3)},
        "noise": {"a": rng.integers(0, 256, 20_000, np.uint8)},
        "text": {"a": np.frombuffer(b"The same words, again and again. " * 400, np.uint8)},
        "zeros": {"a": np.zeros((300, 300), np.float32)},
        "tiny": {"a": np.float32([1.5]), "b": np.int64([3])},
        "int8": {"a": rng.normal(0, 35, 20_000).clip(-127, 127).astype(np.int8)},
        "repeats": {"a": np.tile(noise(500), 30), "b": np.tile(noise(500), 20)},
    }[kind]
    plain = b"".join(array.tobytes() for array in tensors.values())
    smallest = min(len(zlib.compress(plain, 9)), len(lzma.compress(plain, preset=9)), len(plain))
    assert len(there_and_back(tensors)) <= smallest + 24 + 12 * len(tensors)  # names and shapes, which these lack


def test_close_to_the_entropy_of_normal_weights() -> None:
    """Sign and mantissa take 24 bits, the exponent of a normal value 2.6 by its histogram."""
    array = noise(200, 200)
    exponents = np.bincount(array.view(np.uint32).reshape(-1) >> 23 & 255)
    shares = exponents[exponents > 0] / array.size
    ideal_bytes = array.size * (24 - (shares * np.log2(shares)).sum()) / 8
    assert len(there_and_back({"a": array})) < 1.002 * ideal_bytes + 100


def test_what_a_tensor_takes_adds_up() -> None:
    tensors = {"dense": noise(64, 64), "codes": noise(32, 8, seed=1).astype(np.float16), "ramp": np.arange(3000)}
    content = encode_tensors(tensors)
    total = sum(cost.packed_bytes for cost in tensor_costs(content, LIMITS, 1 << 30))
    assert len(content) - 350 < total < len(content)


def test_names_and_types_that_cannot_be_stored() -> None:
    with pytest.raises(PackedFileError, match="line break"):
        encode_tensors({"a\nb": noise(3)})
    with pytest.raises(PackedFileError, match="tensor text: elements of type"):
        encode_tensors({"text": np.array(["a"])})
    with pytest.raises(PackedFileError, match="cannot be packed"):
        encode_tensors({"objects": np.array([None])})


def test_more_than_is_allowed_is_refused_before_it_is_made() -> None:
    content = encode_tensors({"zeros": np.zeros(1 << 22, np.float32)})
    assert len(content) < 100
    with pytest.raises(PackedFileError, match="more than is allowed"):
        decode_tensors(content, LIMITS, 1 << 20)
    with pytest.raises(PackedFileError, match="2 tensors"):
        decode_tensors(encode_tensors({"a": noise(1), "b": noise(1)}), Limits(max_tensors=1), 1 << 20)


def test_squeezenet_of_deep_compression(shared) -> None:
    """Deep Compression's own file of these weights takes 675,763 bytes."""
    path = shared / "anchors" / "squeezenet_deep_compression" / "squeezenet_v10_decoded.npz"
    if not path.is_file():
        pytest.skip("needs the decoded SqueezeNet in the shared data folder")
    with np.load(path) as archive:
        tensors = dict(archive)
    assert len(there_and_back(tensors)) < 535_000
