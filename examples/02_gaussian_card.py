"""The exact gain and variance of a sampler, without a network and without Monte Carlo."""

import retrodict
from retrodict import PROCESSES, Fourier, Spectrum, gaussian_posterior, make_grid, make_plan
from retrodict.samplers.card import posterior_card

process = PROCESSES["fourier"](Fourier((32, 32)))  # ends at the measurement of eqs. 29-30
spectrum = Spectrum.power_law(mean=0.0, amplitude=100.0, corner=0.02, exponent=3.0).on(process.basis)
gain, variance = gaussian_posterior(spectrum, process.measurement)

for rule in ("matched", "ancestral", "sde_dpmpp2m", "gaussian_ode"):
    for steps in (1, 8, 64):
        times = make_grid(process, steps, retrodict.RULES[rule].grid, spectrum=spectrum)
        got_gain, got_variance = posterior_card(make_plan(rule, process, times, spectrum), spectrum)
        a = float((got_gain * gain).sum() / (gain**2).sum())
        print(f"{rule:<14}{steps:>3} calls: gain {a:6.3f}, variance {float(got_variance.sum() / variance.sum()):6.3f}")
