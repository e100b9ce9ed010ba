"""A new forward process: one function; every sampler, the card and training follow."""

import torch

from retrodict import Fourier, Process, Spectrum, gaussian_card, make_grid, make_plan


def veil(basis: Fourier, haze_mm: float = 4.0) -> Process:
    """Fine detail fades first while smooth haze rises: h = exp(-f^2 w^2 t), s^2 = t^2 exp(-f^2 w^2)."""

    def family(bound):
        fw2 = (bound.radius() * haze_mm) ** 2

        def law(t):
            return torch.exp(-fw2 * t), 0 * t, t**2 * torch.exp(-fw2)

        return law

    return Process(family, basis)


process = veil(Fourier((32, 32)))
print("Markov:", process.markov)
spectrum = Spectrum.power_law(0.0, 10.0, 0.05, 3.0).on(process.basis)
for rule in ("matched", "gaussian_ode", "dpmpp2m"):
    card = gaussian_card(make_plan(rule, process, make_grid(process, 8), spectrum), spectrum)
    m = process.moments(torch.ones(1))
    start = (m.h**2 * spectrum + m.s2)[0, 0]
    ratio = (card.start**2 * start + card.variance) / spectrum
    print(f"{rule:<13} variance over the exact one, 8 steps: {float(ratio.min()):.4f} to {float(ratio.max()):.4f}")
