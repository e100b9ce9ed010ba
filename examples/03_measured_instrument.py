"""From the measured MTF and NPS of a scanner to a forward process that ends at its images."""

import torch

from retrodict import FourierProcess, InputError

f = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]  # cycles/mm
mtf = {"frequency": f, "value": [1.0, 1.05, 1.0, 0.8, 0.5, 0.25, 0.1, 0.05], "unit": "1", "frequency_unit": "cycles/mm"}
nps = {
    "frequency": f,
    "value": [50, 120, 180, 160, 110, 60, 25, 10],
    "unit": "HU^2 mm^2",
    "frequency_unit": "cycles/mm",
}

process = FourierProcess.from_measurement(mtf, nps, spacing=(0.75, 0.75), size=(128, 128), unit_scale=200.0)
print("conditioning:", process.pairing.kind, "| Markov:", process.markov)

noise = float((process.measurement.s2 * process.basis.multiplicity()).sum() / 128**2) ** 0.5 * 200
print(f"noise of the instrument: {noise:.1f} HU rms")

x0 = torch.zeros(1, 1, 128, 128)
x0[..., 40:90, 40:90] = 0.5
y = process.corrupt(x0, torch.ones(1), torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)))
print("a measured image:", tuple(y.shape), f"standard deviation {float(y.std()) * 200:.1f} HU")

try:
    FourierProcess.from_measurement(mtf, nps, spacing=(0.5, 0.5))
except InputError as error:
    print("refused:", error)
