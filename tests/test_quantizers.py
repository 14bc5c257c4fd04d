import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from tinydet.quantizers import PowerOfTwoQuantizerConfig, Quantizer, UniformQuantizerConfig


def by_definition(x: float, codes: list[float]) -> float:
    """Eq. 1 read aloud: b where (a + b) / 2 < x <= (b + c) / 2; the first code takes all below."""
    for b, c in pairwise(codes):
        if x <= (b + c) / 2:
            return b
    return codes[-1]


CASES = [
    (UniformQuantizerConfig(1.0), [float(k) for k in range(60)]),
    (UniformQuantizerConfig(0.25), [0.25 * k for k in range(240)]),
    (UniformQuantizerConfig(8.0), [8.0 * k for k in range(10)]),
    (PowerOfTwoQuantizerConfig(-3, 6), [0.0] + [2.0**k for k in range(-3, 7)]),
]


@pytest.mark.parametrize(("config", "codes"), CASES)
def test_codes_are_those_of_the_definition(config, codes):
    values = np.random.default_rng(0).uniform(-3, 50, 2000).astype(np.float32)
    expected = [by_definition(float(x), codes) for x in values]
    assert Quantizer(config)(torch.from_numpy(values)).tolist() == expected


@pytest.mark.parametrize(("config", "codes"), CASES)
def test_a_midpoint_goes_down_and_what_is_just_above_goes_up(config, codes):
    quantizer = Quantizer(config)
    for lower, upper in pairwise(codes[:10]):
        midpoint = torch.tensor((lower + upper) / 2)
        assert quantizer(midpoint).item() == lower
        assert quantizer(torch.nextafter(midpoint, torch.tensor(math.inf))).item() == upper


@pytest.mark.parametrize(("config", "codes"), CASES)
def test_the_gradient_passes_as_if_there_were_no_quantizer(config, codes):
    x = torch.linspace(-2, 20, 101, requires_grad=True)
    upstream = torch.randn(101)
    (gradient,) = torch.autograd.grad((Quantizer(config)(x) * upstream).sum(), x)
    assert torch.equal(gradient, upstream)


def test_values_are_exactly_codes_while_training():
    x = torch.rand(1000, requires_grad=True) * 30
    assert torch.equal(Quantizer(UniformQuantizerConfig())(x), Quantizer(UniformQuantizerConfig())(x.detach()))


def test_wrong_configurations_are_refused():
    with pytest.raises(ValueError, match="not positive"):
        UniformQuantizerConfig(0)
    with pytest.raises(ValueError, match="exponents"):
        PowerOfTwoQuantizerConfig(3, 2)
