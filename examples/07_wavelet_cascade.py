"""Fields with the spectrum of natural images through a wavelet cascade: 8 steps a level, whatever the size."""

import torch

from retrodict import Wavelet, cascade_of_stationary, cascade_stages, sample_cascade
from retrodict.samplers.cascade import cascade_cost

for side in (16, 32, 64):
    basis = Wavelet((side, side), levels=side.bit_length() - 3, family="db4", alignment="centered")
    w = 2 * torch.pi * torch.fft.fftfreq(side, dtype=torch.float64)
    power = 1 / ((2 * torch.pi / side) ** 3 + torch.hypot(w[:, None], w).pow(3))  # correlated over the whole image
    denoiser = cascade_of_stationary(basis, power / power.mean())  # exact levels in place of networks

    fields = sample_cascade(cascade_stages(denoiser, "matched", 8), torch.arange(100))[:, 0]
    found = (torch.fft.fft2(fields.double(), norm="ortho").abs() ** 2).mean(0) / (power / power.mean())
    calls, full = cascade_cost(denoiser.process, 8)
    fine = torch.hypot(w[:, None], w) > torch.pi / 2
    print(
        f"{side} x {side}: {calls} calls, {full:.2f} of the whole grid; power of the fields over that of the data: "
        f"{float(found[~fine].mean()):.2f} of coarse waves, {float(found[fine].mean()):.2f} of fine ones"
    )
