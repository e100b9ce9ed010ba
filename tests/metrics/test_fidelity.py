import math

import pytest
import torch

from retrodict._check import InputError
from retrodict.metrics import mse, psnr, rmse


def test_constant_offset_has_closed_form():
    a = torch.linspace(-1000, 1000, 35).reshape(5, 7)
    assert mse(a, a + 3) == pytest.approx(9, rel=1e-6)
    assert rmse(a, a - 3) == pytest.approx(3, rel=1e-6)
    assert psnr(a, a + 3, data_range=300) == pytest.approx(40, abs=1e-5)


def test_float32_images_are_summed_in_float64():
    a = torch.full((2000, 2000), 0.1, dtype=torch.float32)
    exact = float(torch.tensor(0.1, dtype=torch.float32)) ** 2
    assert mse(a, torch.zeros_like(a)) == pytest.approx(exact, rel=1e-13)


def test_identical_images_have_infinite_psnr():
    assert psnr(torch.ones(2), torch.ones(2), data_range=1) == math.inf


def test_tiny_error_does_not_overflow():
    assert psnr(torch.zeros(2), torch.full((2,), 1e-150, dtype=torch.float64), data_range=1e30) == pytest.approx(3600)


@pytest.mark.parametrize("data_range", [0, -1, math.inf, math.nan])
def test_refuses_useless_range(data_range):
    with pytest.raises(InputError, match="data_range"):
        psnr(torch.zeros(2), torch.ones(2), data_range=data_range)


def test_refuses_broadcast_and_nan():
    with pytest.raises(InputError, match="shape"):
        mse(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(InputError, match="non-finite"):
        mse(torch.tensor([1.0, math.nan]), torch.zeros(2))
    with pytest.raises(InputError, match="empty"):
        mse(torch.zeros(0), torch.zeros(0))
