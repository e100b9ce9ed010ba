"""Gaussian cards of diffusers, azula and deepinv, with the exact denoiser of the Gaussian data, beside ours.

    make bench-peers            (or: .venv-peers/bin/python benchmarks/peers/run.py)

U  four independent pixels, unconditional (`retrodict.bench.unconditional_setup`), 8192 samples.
R  power-law data on 32 x 32 pixels of 1 mm and one measurement through the MTF and NPS of Fourier diffusion
   (`retrodict.bench.restoration_setup`).  The peers know white noise only, so they are given the equivalent whitened
   problem y' = S^-1/2 y, A' = S^-1/2 H with white noise: a circulant operator, scaled to unit norm.  The data are
   scaled to a standard deviation of 0.15 around 0.5, inside the range [0, 1] that deepinv's samplers clamp to (0.3
   around 0 in azula's [-1, 1]).

Every peer figure is Monte Carlo with standard errors in the JSON; hyper-parameters are the defaults of each library
unless the name says otherwise.  A gain whose standard error exceeds 0.25 is left out.  A peer meets the criterion if
it is within the limits plus three standard errors.  A call that fails is recorded with its reason.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import time
from pathlib import Path

import torch
from rich.console import Console

from retrodict._random import white
from retrodict.samplers.card import gaussian_posterior
from retrodict.tasks import gaussian_card as bench
from retrodict.tasks.gaussian_card_table import render

OUT = Path(__file__).resolve().parents[1] / "results" / "peers-gaussian-card.json"
SIZE, SD, GAIN_NOISE = 32, 0.15, 0.25
STEPS = (8, 16, 32, 64)


def import_deepinv():
    """Import deepinv where torchvision's compiled operators cannot be loaded (a CPU-only torch)."""
    original = torch.library.register_fake

    def tolerant(op, *args, **kwargs):
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return original(op, *args, **kwargs)

    torch.library.register_fake = tolerant
    try:
        import deepinv
    finally:
        torch.library.register_fake = original
    return deepinv


def generator():
    return torch.Generator().manual_seed(0)


class Exact:
    """An exact denoiser E[x_0 | a x_0 + s z] of Gaussian data that counts its calls."""

    calls = 0

    def __call__(self, x, a, s):
        self.calls += 1
        return self.denoise(x.double(), a, s).to(x)


# ---- setup U --------------------------------------------------------------------------------------------------------


class Pixels(Exact):
    """Setup U; images are (B, 1, 1, 4)."""

    def __init__(self):
        setup = bench.unconditional_setup()
        self.mean, self.variance = setup.mean, setup.spectrum

    def denoise(self, x, a, s):
        return self.mean + a * self.variance / (a**2 * self.variance + s**2) * (x - a * self.mean)

    def score(self, x):
        """Gain, variance ratio and standard errors; no gain for the pixel of mean 0."""
        x, count = x.double().reshape(len(x), 4), len(x)
        gain = [None if m == 0 else float(g) / float(m) for g, m in zip(x.mean(0), self.mean, strict=True)]
        error = [
            None if m == 0 else float(v.sqrt() / abs(m)) / math.sqrt(count)
            for m, v in zip(self.mean, self.variance, strict=True)
        ]
        ratio = (x.var(0) / self.variance).tolist()
        return gain, ratio, error, [r * math.sqrt(2 / count) for r in ratio]


def diffusers_u(data, count):
    """Jobs (name, steps, whether that is the default, function) of the diffusers schedulers."""
    import diffusers as d

    beta = {"beta_start": 1e-4, "beta_end": 0.02}
    makers = {
        "DDIM": lambda: d.DDIMScheduler(clip_sample=False, **beta),
        "DDPM": lambda: d.DDPMScheduler(clip_sample=False, **beta),
        "DPM++2M": lambda: d.DPMSolverMultistepScheduler(**beta),
        "SDE-DPM++2M": lambda: d.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **beta),
        "UniPC": lambda: d.UniPCMultistepScheduler(**beta),
        "Heun": lambda: d.HeunDiscreteScheduler(**beta),
    }

    def run(make, steps):
        scheduler, noise = make(), generator()
        scheduler.set_timesteps(steps)
        x = torch.randn(count, 1, 1, 4, generator=noise, dtype=torch.float64) * float(scheduler.init_noise_sigma)
        options = {"generator": noise} if "generator" in type(scheduler).step.__code__.co_varnames else {}
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t)
            index = float(t)  # Heun's times lie between the training times
            table = scheduler.alphas_cumprod.double()
            low = min(int(index), len(table) - 2)
            sigma = ((1 - table) / table).sqrt()[low : low + 2]
            sigma = (sigma[0].log() * (low + 1 - index) + sigma[1].log() * (index - low)).exp()
            a, s = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
            eps = (scaled - a * data(scaled, a, s)) / s
            x = scheduler.step(eps, t, x, **options).prev_sample
        return x

    for name, make in makers.items():
        for steps in STEPS:
            yield name, steps, False, lambda make=make, steps=steps: run(make, steps)


def azula_denoiser(function):
    """azula's interface around a denoiser (x, alpha, sigma), on its VP schedule."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VPSchedule

    class Wrapped(Denoiser):
        def __init__(self):
            super().__init__()
            self.schedule, self.function = VPSchedule(), function

        def forward(self, x_t, t, **kwargs):
            return DiracPosterior(self.function(x_t, *self.schedule(t)))

    return Wrapped()


def azula_u(data, count):
    """Jobs of the azula samplers, started from the exact marginal as its `init` does."""
    from azula import sample

    def run(name, steps):
        torch.manual_seed(0)
        sampler = getattr(sample, name)(azula_denoiser(data), steps=steps, silent=True, dtype=torch.float64)
        return sampler(sampler.init((count, 1, 1, 4), mean=data.mean, var=data.variance))

    for name in ("DDPMSampler", "DDIMSampler", "HeunSampler", "zABSampler", "xEABSampler", "REABSampler"):
        for steps in STEPS:
            yield name.removesuffix("Sampler"), steps, steps == 64, lambda name=name, steps=steps: run(name, steps)


def deepinv_denoiser(deepinv, function):
    """deepinv's interface (x, sigma) around a denoiser (x, alpha, sigma)."""

    class Wrapped(deepinv.models.Denoiser):
        def forward(self, x, sigma, *args, **kwargs):
            s = torch.as_tensor(sigma, dtype=torch.float64)
            return function(x, 1.0, s if s.ndim == 0 else s.reshape(-1, 1, 1, 1))

    return Wrapped()


def deepinv_u(data, count):
    """Jobs of deepinv's solvers on its VP diffusion."""
    deepinv = import_deepinv()
    sampling = deepinv.sampling
    kinds = {
        "DDPM": (sampling.DDPMSolver, 1.0, 0.0),
        "DDIM": (sampling.DDIMSolver, 0.0, 0.0),
        "Euler SDE": (sampling.EulerSolver, 1.0, 0.001),
        "Euler ODE": (sampling.EulerSolver, 0.0, 0.001),
        "Heun ODE": (sampling.HeunSolver, 0.0, 0.001),
    }

    def run(solver, alpha, last, steps):
        sde = sampling.VariancePreservingDiffusion(
            denoiser=deepinv_denoiser(deepinv, data),
            alpha=alpha,
            solver=solver(timesteps=torch.linspace(1, last, steps + 1, dtype=torch.float64), rng=generator()),
            minus_one_one=False,
        )
        with torch.no_grad():
            return sde.sample((count, 1, 1, 4), seed=0)

    for name, (solver, alpha, last) in kinds.items():
        for steps in STEPS:
            yield (
                name,
                steps,
                False,
                lambda solver=solver, alpha=alpha, last=last, steps=steps: run(solver, alpha, last, steps),
            )


# ---- setup R --------------------------------------------------------------------------------------------------------


def fft(x):
    return torch.fft.rfft2(x, norm="ortho")


def ifft(u):
    return torch.fft.irfft2(u, s=(SIZE, SIZE), norm="ortho")


class Scene(Exact):
    """Setup R in peers' units: x' = center + scale x, y' = A' x' + sigma n with |A'| <= 1 and white n."""

    def __init__(self, center, sd):
        self.setup, process = bench.restoration_setup(SIZE)
        assert process.measurement is not None
        gain, _, noise = process.measurement
        spectrum = self.setup.spectrum
        weight = self.setup.weight
        self.center = center
        self.scale = sd / float(((spectrum * weight).sum() / weight.sum()).sqrt())
        self.spectrum = self.scale**2 * spectrum
        whitened = gain / noise.sqrt()
        self.gain, self.sigma = whitened / whitened.max(), self.scale / float(whitened.max())
        x0 = spectrum.sqrt() * fft(white([1], "truth", 0, (1, SIZE, SIZE)).double())
        y = gain * x0 + noise.sqrt() * fft(white([1], "noise", 0, (1, SIZE, SIZE)).double())
        k, self.variance = gaussian_posterior(spectrum, process.measurement)
        self.mean = k * y
        self.y = self.A(torch.full((1, 1, SIZE, SIZE), center, dtype=torch.float64)) + self.sigma * ifft(
            y / noise.sqrt()
        )

    def A(self, x):
        """The whitened operator, equal to its adjoint."""
        return ifft(self.gain * fft(x.double())).to(x)

    def denoise(self, x, a, s):
        weight = a * self.spectrum / (a**2 * self.spectrum + s**2)
        return self.center + ifft(weight * fft(x - a * self.center))

    def score(self, x):
        """Gain and variance ratio per band, with standard errors, of samples (B, 1, 32, 32) in peers' units."""
        u = fft((x.double() - self.center) / self.scale)
        count, mean = len(u), u.mean(0)[0]
        spread = (u - u.mean(0)).abs().pow(2).sum(0)[0] / (count - 1)
        gains, ratios, gain_errors, ratio_errors = [], [], [], []
        for part in self.setup.parts:
            w, m, v = self.setup.weight[part], self.mean[0, 0][part], self.variance[part]
            energy = float((w * m.abs() ** 2).sum())
            gains.append(float((w * (m.conj() * mean[part]).real).sum()) / energy)
            gain_errors.append(math.sqrt(float((w * m.abs() ** 2 * spread[part]).sum()) / count) / energy)
            ratios.append(float((w * spread[part]).sum() / (w * v).sum()))
            # each complex coefficient of weight 2 is two real ones of variance v
            fourth = float((w * spread[part] ** 2).sum())
            ratio_errors.append(math.sqrt(2 * fourth / (count - 1)) / float((w * v).sum()))
        # what the posterior itself would scatter by, so that a method without spread is not credited with precision
        floor = [
            math.sqrt(float((w * m.abs() ** 2 * v).sum()) / count) / float((w * m.abs() ** 2).sum())
            for w, m, v in ((self.setup.weight[p], self.mean[0, 0][p], self.variance[p]) for p in self.setup.parts)
        ]
        gains = [None if e > GAIN_NOISE else g for g, e in zip(gains, floor, strict=True)]
        return gains, ratios, gain_errors, ratio_errors


def azula_r(scene, count):
    """Jobs of azula's posterior denoisers; its solvers take vectors, so images are flat (B, 1024)."""
    from azula import sample
    from azula.guidance.diffpir import DiffPIRDenoiser
    from azula.guidance.dps import DPSSampler
    from azula.guidance.mmps import MMPSDenoiser
    from azula.guidance.tmpd import TMPDenoiser
    from azula.linalg.covariance import IsotropicCovariance

    def image(x):
        return x.reshape(-1, 1, SIZE, SIZE)

    def operator(x):
        return scene.A(image(x)).reshape(x.shape)

    exact = azula_denoiser(lambda x, a, s: scene(image(x), a, s).reshape(x.shape))
    y = scene.y.reshape(1, -1).expand(count, -1)
    var = torch.tensor(scene.sigma**2, dtype=torch.float64)

    def mmps(n):
        return MMPSDenoiser(exact, y, operator, IsotropicCovariance(var), iterations=n)

    makers = {
        "MMPS + DDPM": lambda n: sample.DDPMSampler(mmps(1), steps=n, silent=True),
        "MMPS, 10 iterations + DDPM": lambda n: sample.DDPMSampler(mmps(10), steps=n, silent=True),
        "MMPS, 10 iterations + zAB": lambda n: sample.zABSampler(mmps(10), steps=n, silent=True),
        "TMPD + DDPM": lambda n: sample.DDPMSampler(TMPDenoiser(exact, y, operator, var), steps=n, silent=True),
        "DiffPIR + DDPM": lambda n: sample.DDPMSampler(DiffPIRDenoiser(exact, y, operator, var), steps=n, silent=True),
        "DPS (one norm per batch)": lambda n: DPSSampler(exact, y, operator, steps=n, silent=True),
    }

    def run(make, steps):
        torch.manual_seed(0)
        sampler = make(steps)
        sampler.dtype = torch.float64
        return image(sampler(torch.randn(count, SIZE**2, dtype=torch.float64)))

    for name, make in makers.items():
        for steps in (8, 64, 200):
            if steps == 200 and not name.startswith("MMPS, 10"):
                continue
            yield name, steps, steps == 64, lambda make=make, steps=steps: run(make, steps)


def deepinv_r(scene, count):
    """Jobs of deepinv's posterior samplers, with the singular value decomposition of its own `BlurFFT`."""
    deepinv = import_deepinv()
    sampling = deepinv.sampling

    class Operator(deepinv.physics.DecomposablePhysics):
        """The circulant operator, decomposed like deepinv.physics.BlurFFT: half spectra viewed as real numbers."""

        def __init__(self):
            mask = scene.gain.float()[None, None, :, :, None].expand(1, 1, -1, -1, 2).clone()
            super().__init__(mask=mask, noise_model=deepinv.physics.GaussianNoise(scene.sigma))

        def V_adjoint(self, x):
            return torch.view_as_real(fft(x))

        def V(self, x):
            return ifft(torch.view_as_complex(x.contiguous()))

        U, U_adjoint = V, V_adjoint

    physics, denoiser = Operator(), deepinv_denoiser(deepinv, scene)
    y = scene.y.float().expand(count, -1, -1, -1).clone()

    def diffusion(fidelity, solver, last):
        def make(n):
            times = torch.linspace(1, last, n + 1, dtype=torch.float64)
            return sampling.PosteriorDiffusion(
                data_fidelity=fidelity(),
                denoiser=denoiser,
                sde=sampling.VariancePreservingDiffusion(alpha=1.0),
                solver=solver(timesteps=times, rng=generator()),
            )

        return make

    def matching(iterations):
        return lambda: sampling.MomentMatchingDataFidelity(denoiser=denoiser, cg_max_iter=iterations)

    def pigdm():
        return sampling.PiGDMDataFidelity(denoiser=denoiser)

    euler, ddpm = (sampling.EulerSolver, 0.001), (sampling.DDPMSolver, 0.0)
    makers = {
        "moment matching + Euler": ((64, 200), diffusion(matching(3), *euler)),
        "moment matching + DDPM": ((64, 200), diffusion(matching(3), *ddpm)),
        "moment matching, 10 iterations + Euler": ((64, 200), diffusion(matching(10), *euler)),
        "PiGDM + Euler": ((64, 200), diffusion(pigdm, *euler)),
        "PiGDM + DDPM": ((64, 200), diffusion(pigdm, *ddpm)),
        "ALD + Euler": ((64, 200), diffusion(sampling.ALDDataFidelity, *euler)),
        "DPS": ((64, 1000), lambda n: sampling.DPS(denoiser, num_steps=n, rng=generator())),
        "DPS, annealed": ((64, 1000), lambda n: sampling.DPS(denoiser, num_steps=n, guidance="annealed")),
        "DiffPIR": (
            (64, 100),
            lambda n: sampling.DiffPIR(denoiser, deepinv.optim.data_fidelity.L2(), sigma=scene.sigma, max_iter=n),
        ),
        "DDRM": ((64, 100), lambda n: sampling.DDRM(denoiser, sigmas=torch.linspace(1, 0, n).tolist())),
    }
    default = {"DPS": 1000, "DPS, annealed": 1000, "DiffPIR": 100, "DDRM": 100}

    def run(make, steps):
        torch.manual_seed(0)
        model = make(steps)
        if isinstance(model, sampling.PosteriorDiffusion):
            return model(y, physics, x_init=(count, 1, SIZE, SIZE), seed=1)
        return model(y, physics, seed=1)

    for name, (numbers, make) in makers.items():
        for steps in numbers:
            yield name, steps, default.get(name) == steps, lambda make=make, steps=steps: run(make, steps)


# ---- the run --------------------------------------------------------------------------------------------------------


def record(setup, library, sampler, steps, default, nfe=None, figures=None, count=None, reason=""):
    """One row, with the fields of `retrodict.bench`."""
    gain, variance, gain_se, variance_se = figures or ([], [], None, None)
    worst_gain, worst_variance, verdict = bench.judge(setup, gain, variance)
    if verdict == "failed" and not reason:
        reason = "the result is not finite"
    close = within(gain, gain_se, bench.GAIN_LIMIT) and within(variance, variance_se, bench.VARIANCE_LIMIT)
    if verdict == "not calibrated" and close:
        verdict = "posterior" if setup == "R" else "calibrated"
    return {
        "setup": setup,
        "library": library,
        "process": "vp",
        "conditioning": "guided" if setup == "R" else "none",
        "sampler": sampler,
        "documented": None,
        "steps": steps,
        "nfe": nfe,
        "default": default,
        "gain": finite(gain),
        "variance": finite(variance),
        "gain_se": finite(gain_se),
        "variance_se": finite(variance_se),
        "samples": count,
        "worst_gain": worst_gain,
        "worst_variance": worst_variance,
        "largest_error": None,
        "verdict": verdict,
        "reason": reason,
    }


def within(values, errors, limit):
    """Whether every value that there is lies within the limit and three standard errors."""
    errors = errors or []
    return all(v is None or abs(v - 1) <= limit + 3 * e for v, e in zip(values, errors, strict=True))


def finite(values):
    """JSON has no NaN."""
    return values and [v if v is not None and math.isfinite(v) else None for v in values]


def collect(setup, library, jobs, data, count):
    """Run the jobs of one library; a failure is a row too.  A slow machine takes fewer samples, never fewer rows."""
    rows = []
    try:
        jobs = list(jobs(data, count))
    except Exception as error:  # the library itself cannot be used
        return [record(setup, library, "-", None, False, reason=sentence(error))]
    for name, steps, default, job in jobs:
        before, clock = data.calls, time.perf_counter()
        try:
            figures = data.score(job().detach())
            rows.append(record(setup, library, name, steps, default, data.calls - before, figures, count))
        except Exception as error:  # a peer's failure is a result here
            rows.append(record(setup, library, name, steps, default, reason=sentence(error)))
        row, seconds = rows[-1], time.perf_counter() - clock
        print(f"{setup} {library} {name} {steps}: {row['verdict']} {row['reason']} ({seconds:.1f} s)", flush=True)
    return rows


def sentence(error):
    """First line of an error."""
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:160]


def ours():
    """The same setups with this library, in the same run."""
    chosen = (1, 8, 32, 64)
    return bench.card_unconditional(chosen, ["vp"]) + bench.card_restoration(chosen, ["fourier", "vp"])


def versions():
    """Installed versions of what is compared."""
    found = {}
    for name in ("torch", "diffusers", "azula", "deepinv", "retrodict"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def main():
    """Run everything, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pixels", type=int, default=8192, help="samples in setup U; fewer take less time")
    parser.add_argument("--samples", type=int, default=256, help="samples in setup R; fewer take less time")
    parser.add_argument("--json", type=Path, default=OUT)
    arguments = parser.parse_args()
    started = time.perf_counter()
    rows = []
    for library, jobs in (("diffusers", diffusers_u), ("azula", azula_u), ("deepinv", deepinv_u)):
        rows += collect("U", library, jobs, Pixels(), arguments.pixels)
    rows += collect("R", "azula", azula_r, Scene(0.0, 2 * SD), arguments.samples)
    rows += collect("R", "deepinv", deepinv_r, Scene(0.5, SD), arguments.samples)
    own = ours()
    Console(width=170).print(render(own + rows))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    about = {"command": "make bench-peers", "versions": versions(), "seconds": round(time.perf_counter() - started)}
    bench.write_json(arguments.json, own + rows, **about)
    print(arguments.json)


if __name__ == "__main__":
    main()
