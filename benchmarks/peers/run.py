"""Gaussian cards of diffusers, azula and deepinv, beside ours, with the exact denoiser of the Gaussian data.

    make bench-peers            (or: .venv-peers/bin/python benchmarks/peers/run.py)

U  four independent pixels, unconditional (as `retrodict.bench.unconditional_setup`).
R  power-law data on 32 x 32 pixels of 1 mm, one measurement through the MTF and NPS of Fourier diffusion.  The peers
   know white noise only, so they are given the whitened problem y' = S^-1/2 y, A' = S^-1/2 H with unit white noise,
   which is equivalent.
Every peer figure is Monte Carlo with the standard errors in the JSON; defaults of each library unless said.  A call
that fails is recorded with its reason.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from rich.console import Console

from retrodict import bench
from retrodict._random import white
from retrodict.samplers.card import gaussian_posterior

OUT = Path(__file__).resolve().parents[1] / "results" / "peers-gaussian-card.json"


def import_deepinv():
    """Import deepinv where torchvision's compiled operators cannot be loaded (a CPU-only torch)."""
    original = torch.library.register_fake

    def tolerant(op, *args, **kwargs):
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return original(op, *args, **kwargs)

    torch.library.register_fake = tolerant
    import deepinv

    return deepinv


# ---- setup U ----


class FourPixels:
    """The data of setup U and their exact denoiser for x_t = a x_0 + s z, in float64; images are (B, 1, 1, 4)."""

    def __init__(self):
        setup = bench.unconditional_setup()
        self.mean, self.variance = setup.mean.reshape(1, 1, 1, 4), setup.spectrum.reshape(1, 1, 1, 4)

    def denoise(self, x, a, s):
        return self.mean + a * self.variance / (a**2 * self.variance + s**2) * (x - a * self.mean)


def record(setup, library, process, sampler, steps, nfe, gain, variance, gain_se, variance_se, reason=""):
    """One row, with the fields of `retrodict.bench`."""
    worst_gain, worst_variance, verdict = bench.judge(setup, gain, variance) if gain else (None, None, "failed")
    if gain and _within(gain, gain_se, bench.GAIN_LIMIT) and _within(variance, variance_se, bench.VARIANCE_LIMIT):
        verdict = "posterior" if setup == "R" else "calibrated"  # the limits plus three standard errors
    return {
        "setup": setup,
        "library": library,
        "process": process,
        "conditioning": "guided" if setup == "R" else "none",
        "sampler": sampler,
        "documented": None,
        "steps": steps,
        "nfe": nfe,
        "default": False,
        "gain": gain,
        "variance": variance,
        "gain_se": gain_se,
        "variance_se": variance_se,
        "worst_gain": worst_gain,
        "worst_variance": worst_variance,
        "largest_error": None,
        "verdict": verdict,
        "reason": reason,
    }


def _within(values, errors, limit):
    errors = errors if isinstance(errors, list) else [errors] * len(values)
    return all(abs(v - 1) <= limit + 3 * e for v, e in zip(values, errors, strict=True))


def score_u(data, x):
    """Gain and variance of samples (B, 1, 1, 4): 1 + (mean error in standard deviations), variance ratio."""
    x = x.double().reshape(len(x), 4)
    mean, variance = data.mean.reshape(4), data.variance.reshape(4)
    gain = 1 + (x.mean(0) - mean) / variance.sqrt()
    return gain.tolist(), (x.var(0) / variance).tolist(), 1 / math.sqrt(len(x)), math.sqrt(2 / len(x))


def diffusers_u(data, count):
    """Rows of the diffusers schedulers."""
    import diffusers as d

    makers = {
        "DDIM": lambda: d.DDIMScheduler(clip_sample=False, beta_start=1e-4, beta_end=0.02),
        "DDPM": lambda: d.DDPMScheduler(clip_sample=False, beta_start=1e-4, beta_end=0.02),
        "DPM++2M": lambda: d.DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02),
        "SDE-DPM++2M": lambda: d.DPMSolverMultistepScheduler(
            beta_start=1e-4, beta_end=0.02, algorithm_type="sde-dpmsolver++"
        ),
        "UniPC": lambda: d.UniPCMultistepScheduler(beta_start=1e-4, beta_end=0.02),
    }
    for name, make in makers.items():
        for steps in (8, 16, 32, 64):
            yield name, steps, lambda make=make, steps=steps: _diffusers(make(), data, steps, count)


def _diffusers(scheduler, data, steps, count):
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, 1, 4, generator=generator, dtype=torch.float64) * float(scheduler.init_noise_sigma)
    for t in scheduler.timesteps:
        alpha = scheduler.alphas_cumprod.double()[int(t)]
        a, s = alpha.sqrt(), (1 - alpha).sqrt()
        eps = (x - a * data.denoise(x, a, s)) / s
        options = {"generator": generator} if "generator" in scheduler.step.__code__.co_varnames else {}
        x = scheduler.step(eps, t, x, **options).prev_sample
    return x, steps


def azula_classes():
    """azula's interface around an exact denoiser given as a function (x, alpha, sigma)."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VPSchedule

    class Exact(Denoiser):
        def __init__(self, function):
            super().__init__()
            self.schedule, self.function = VPSchedule(), function

        def forward(self, x_t, t, **kwargs):
            a, s = self.schedule(t)
            return DiracPosterior(self.function(x_t, a, s))

    return Exact


def azula_u(data, count):
    """Rows of the azula samplers."""
    from azula import sample

    exact = azula_classes()(data.denoise)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(count, 1, 1, 4, generator=generator, dtype=torch.float64)
    for name in ("DDPMSampler", "DDIMSampler", "HeunSampler", "zABSampler"):
        for steps in (8, 16, 32, 64):

            def run(name=name, steps=steps):
                torch.manual_seed(0)
                sampler = getattr(sample, name)(exact, steps=steps, silent=True, dtype=torch.float64)
                return sampler(start.clone()), steps * (2 if name == "HeunSampler" else 1)

            yield name, steps, run


# ---- setup R ----


class Scene:
    """The data, instrument and exact posterior of setup R, and one measurement."""

    def __init__(self):
        self.setup, self.process = bench.restoration_setup(32)
        self.basis, self.spectrum = self.process.basis, self.setup.spectrum
        self.gain, self.noise = self.process.measured
        z = white([1], "truth", 0, (1, 32, 32)).double()
        n = white([1], "noise", 0, (1, 32, 32)).double()
        x0 = self.spectrum.sqrt() * self.basis.forward(z)
        self.y = self.gain * x0 + self.noise.sqrt() * self.basis.forward(n)
        K, self.variance = gaussian_posterior(self.spectrum, self.process.measured)
        self.mean = K * self.y
        self.whitened = self.gain / self.noise.sqrt()  # A' in the Fourier basis
        self.y_white = self.basis.inverse(self.y / self.noise.sqrt())

    def A(self, x):
        """The whitened operator."""
        return self.basis.inverse(self.whitened * self.basis.forward(x.double())).to(x)

    def denoise(self, x, a, s):
        """Exact E[x_0 | x_t] for x_t = a x_0 + s z."""
        weight = a * self.spectrum / (a**2 * self.spectrum + s**2)
        return self.basis.inverse(weight * self.basis.forward(x.double())).to(x)

    def score(self, x):
        """Gain and variance ratio per band, with standard errors, of samples (B, 1, 32, 32)."""
        u = self.basis.forward(x.double())
        weight, count = self.setup.weight, len(x)
        mean, spread = u.mean(0)[0], (u - u.mean(0)).abs().pow(2).sum(0)[0] / (count - 1)
        exact = self.mean[0, 0]
        gains, ratios, gain_se, ratio_se = [], [], [], []
        for part in self.setup.parts:
            w, m = weight[part], exact[part]
            energy = float((w * m.abs() ** 2).sum())
            gains.append(float((w * (m.conj() * mean[part]).real).sum()) / energy)
            gain_se.append(math.sqrt(float((w * m.abs() ** 2 * self.variance[part]).sum()) / count) / energy)
            ratios.append(float((w * spread[part]).sum() / (w * self.variance[part]).sum()))
            ratio_se.append(math.sqrt(2 / count / max(1.0, float(w.sum()))) * ratios[-1])
        return gains, ratios, gain_se, ratio_se


def azula_r(scene, count):
    """Posterior denoisers of azula."""
    from azula import sample
    from azula.guidance.diffpir import DiffPIRDenoiser
    from azula.guidance.dps import DPSSampler
    from azula.guidance.mmps import MMPSDenoiser
    from azula.guidance.tmpd import TMPDenoiser
    from azula.linalg.covariance import IsotropicCovariance

    exact = azula_classes()(scene.denoise)
    y = scene.y_white.expand(count, 1, 32, 32)
    start = torch.randn(count, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one = torch.ones((), dtype=torch.float64)
    for steps in (8, 32, 64):
        makers = {
            "MMPS + DDPM": lambda n: sample.DDPMSampler(
                MMPSDenoiser(exact, y, scene.A, IsotropicCovariance(one), iterations=3), steps=n, silent=True
            ),
            "TMPD + DDPM": lambda n: sample.DDPMSampler(TMPDenoiser(exact, y, scene.A, 1.0), steps=n, silent=True),
            "DiffPIR + DDPM": lambda n: sample.DDPMSampler(
                DiffPIRDenoiser(exact, y, scene.A, 1.0), steps=n, silent=True
            ),
            "DPS": lambda n: DPSSampler(exact, y, scene.A, steps=n, silent=True),
        }
        for name, make in makers.items():

            def run(make=make, steps=steps):
                torch.manual_seed(0)
                return make(steps)(start.clone()), steps

            yield name, steps, run


def deepinv_r(scene, count):
    """Posterior samplers of deepinv on the whitened circulant operator."""
    deepinv = import_deepinv()
    from deepinv.sampling import EulerSolver, PosteriorDiffusion, VariancePreservingDiffusion

    class Operator(deepinv.physics.LinearPhysics):
        def __init__(self):
            super().__init__(noise_model=deepinv.physics.GaussianNoise(sigma=1.0))

        def A(self, x, **kwargs):
            return scene.A(x)

        def A_adjoint(self, y, **kwargs):
            return scene.A(y)

    class Exact(deepinv.models.base.Denoiser):
        def forward(self, x, sigma, **kwargs):
            s = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1, 1, 1)
            return scene.denoise(x, torch.ones((), dtype=torch.float64), s)

    physics, denoiser = Operator(), Exact()
    y = scene.y_white.expand(count, 1, 32, 32)

    def diffusion(fidelity, steps):
        generator = torch.Generator().manual_seed(0)
        solver = EulerSolver(timesteps=torch.linspace(1, 0.001, steps), rng=generator)
        model = PosteriorDiffusion(
            data_fidelity=fidelity,
            denoiser=denoiser,
            sde=VariancePreservingDiffusion(alpha=1.0),
            solver=solver,
            minus_one_one=False,
        )
        return model(y, physics, x_init=(count, 1, 32, 32)), steps

    noisy = deepinv.sampling
    for steps in (64, 200):
        yield (
            "moment matching",
            steps,
            lambda n=steps: diffusion(noisy.MomentMatchingDataFidelity(denoiser=denoiser), n),
        )
        yield "PiGDM", steps, lambda n=steps: diffusion(noisy.PiGDMDataFidelity(denoiser=denoiser), n)
        yield "DPS", steps, lambda n=steps: diffusion(noisy.DPSDataFidelity(denoiser=denoiser), n)
        yield (
            "DiffPIR",
            steps,
            lambda n=steps: (
                noisy.DiffPIR(denoiser, deepinv.optim.L2(), sigma=1.0, max_iter=n, device="cpu")(y.float(), physics),
                n,
            ),
        )


# ---- the run ----


def collect(setup, library, process, jobs, score, budget):
    """Run the jobs of one library; a failure is a row, and so is what no time was left for."""
    started = time.perf_counter()
    rows = []
    for name, steps, job in jobs:
        if time.perf_counter() - started > budget:
            rows.append(record(setup, library, process, name, steps, None, [], [], None, None, "time budget used up"))
            continue
        try:
            samples, nfe = job()
            gain, variance, gain_se, variance_se = score(samples.detach())
            rows.append(record(setup, library, process, name, steps, nfe, gain, variance, gain_se, variance_se))
        except Exception as error:  # a peer's failure is a result here
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:120]
            rows.append(record(setup, library, process, name, steps, None, [], [], None, None, reason))
        print(f"{setup} {library} {name} {steps}: {rows[-1]['verdict']} {rows[-1]['reason']}", flush=True)
    return rows


def ours():
    """The same setups with this library, in the same run."""
    chosen = (1, 8, 32, 64)
    rules = ("matched", "gaussian_ode", "sde_dpmpp2m", "ancestral", "ddim", "dpmpp2m")
    return bench.card_unconditional(chosen, ["vp"], rules) + bench.card_restoration(chosen, ["fourier", "vp"], rules)


def main():
    """Run everything, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=90.0, help="seconds for each library and setup")
    parser.add_argument("--json", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float32)
    data, scene = FourPixels(), Scene()
    rows = []
    sources = [
        ("U", "diffusers", lambda: diffusers_u(data, 8192), lambda x: score_u(data, x)),
        ("U", "azula", lambda: azula_u(data, 8192), lambda x: score_u(data, x)),
        ("R", "azula", lambda: azula_r(scene, 64), scene.score),
        ("R", "deepinv", lambda: deepinv_r(scene, 64), scene.score),
    ]
    for setup, library, jobs, score in sources:
        try:
            rows += collect(setup, library, "vp", jobs(), score, arguments.budget)
        except Exception as error:  # the library itself cannot be used
            rows.append(
                record(
                    setup, library, "vp", "-", None, None, [], [], None, None, f"{type(error).__name__}: {error}"[:120]
                )
            )
            print(rows[-1], file=sys.stderr)
    own = ours()
    Console(width=150).print(bench.render(own + rows))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    bench.write_json(arguments.json, own + rows, command="make bench-peers")
    print(arguments.json)


if __name__ == "__main__":
    main()
