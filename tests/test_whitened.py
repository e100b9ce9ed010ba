"""Whitened-score diffusion: kernels, golden numbers (T10), random kernels, and training without an inverse."""

from __future__ import annotations

import math

import pytest
import torch

from objects import TIMES
from retrodict import InputError
from retrodict._random import white
from retrodict.bases import Cosine, Fourier, Pixel, Wavelet
from retrodict.bases.composite import ChannelMix
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.denoiser import FunctionDenoiser, GaussianDenoiser
from retrodict.denoisers.likelihood import LikelihoodGuided, UnknownKernel
from retrodict.denoisers.mixture import GaussianLaw
from retrodict.denoisers.network import NetDenoiser
from retrodict.denoisers.predictions import PREDICTIONS, target, to_data
from retrodict.nets import UNet
from retrodict.processes.observation import Moments, wiener
from retrodict.processes.process import Process
from retrodict.processes.scalar import vp
from retrodict.processes.whitened import KernelLaw, kernel_power, whitened
from retrodict.samplers import make_plan, sample
from retrodict.samplers.card import card, gaussian_card
from retrodict.samplers.whitened import whitened_plan
from retrodict.training.losses import denoising_loss

ONE = torch.ones(1, dtype=torch.float64)
SPECTRUM = Spectrum.power_law(0.0, 1.0, 0.05, 3.0)


def at(*times):
    return torch.tensor(times, dtype=torch.float64)


def with_power(*power):
    """The schedule with |K|^2 given, one coefficient each."""
    table = at(*power)
    base = vp(Pixel((1,)))
    return Process(lambda basis: lambda t: (base.law(t)[0], 0 * t, base.law(t)[2] * table), Pixel((len(power),)))


def even(n):
    """Times of Algorithm 1."""
    return torch.linspace(1, 0, n + 1, dtype=torch.float64)


def field(*shape, seed=0):
    return white([seed + k for k in range(shape[0])], "test", 0, shape[1:]).double()


# ---- kernels ----


@pytest.mark.parametrize(("size", "width"), [((12, 16), 1.3), ((9, 16), (0.7, 2.0)), ((16,), 0.4), ((8, 8), 0.0)])
def test_the_law_is_that_of_white_noise_through_a_sampled_kernel(size, width):
    """Dense circulant matrix of the wrapped kernel, orders of wrapping summed."""
    basis, n = Fourier(size, tuple(0.8 for _ in size)), math.prod(size)
    widths = [width] * len(size) if isinstance(width, float) else list(width)
    taps = torch.ones(size, dtype=torch.float64)
    for axis, (m, w) in enumerate(zip(size, widths, strict=True)):
        line = torch.zeros(m, dtype=torch.float64)
        for k in range(-60, 61):
            line[k % m] += math.exp(-((0.8 * k) ** 2) / (2 * w**2)) if w else float(k == 0)
        taps = taps * (line / line.sum()).reshape([m if a == axis else 1 for a in range(len(size))])
    z = torch.eye(n, dtype=torch.float64).reshape(n, *size)
    turned = torch.fft.ifftn(torch.fft.fftn(taps) * torch.fft.fftn(z, dim=list(range(1, len(size) + 1))),
                             dim=list(range(1, len(size) + 1))).real.reshape(n, n)  # fmt: skip
    process = whitened(basis, width, normalise="none")
    s = process.moments(ONE).s2[0, 0].sqrt()
    mine = basis.inverse(s * basis.forward(z)).reshape(n, n)
    a2 = math.exp(-10.05)
    assert torch.allclose(mine @ mine.T, (1 - a2) * turned @ turned.T, atol=1e-13)


def test_the_cosine_basis_has_mirrored_borders():
    """K = sum_k taps cos(2 pi f k) is the convolution of the mirrored image."""
    basis, x = Cosine((10,)), field(1, 10)[0]
    taps = torch.tensor([math.exp(-(k**2) / (2 * 1.5**2)) for k in range(-40, 41)], dtype=torch.float64)
    around = torch.cat([x, x.flip(0)])
    direct = sum(
        w * around[(torch.arange(10) + k) % 20] for w, k in zip(taps / taps.sum(), range(-40, 41), strict=True)
    )
    gain = kernel_power(basis, at(1.5)[None], normalise="none")[0, 0].sqrt()
    assert torch.allclose(basis.inverse(gain * basis.forward(x)), direct, atol=1e-13)


def test_energy_of_the_published_kernels():
    """Standard deviations of the noise per pixel, structured specification, section 3."""
    basis = Fourier((64, 64))
    known = {0.5: 0.641, 0.8: 0.354, 1.0: 0.282, 2.0: 0.141, 3.0: 0.0940, 5.0: 0.0564}
    for width, sd in known.items():
        for normalise, value in (("none", sd), ("l2", 1.0)):
            power = kernel_power(basis, at(width, width)[None], normalise=normalise)[0, 0]
            variance = float((power * basis.multiplicity()).sum() / basis.multiplicity().sum())
            assert variance == pytest.approx(value**2, rel=4e-3 if normalise == "none" else 1e-9)


@pytest.mark.parametrize("options", [{"white": 0.5}, {"high": True}, {"high": True, "white": 0.2}])
def test_unit_energy_holds_for_every_family(options):
    basis = Fourier((64, 64), (0.5, 1.0))
    power = kernel_power(basis, at(1.2, 2.0)[None], **options)[0, 0]
    assert float((power * basis.multiplicity()).sum() / basis.multiplicity().sum()) == pytest.approx(1, rel=1e-12)
    assert (float(power[0, 0]) == 0) == (options == {"high": True})
    published = kernel_power(basis, at(1.2, 2.0)[None], normalise="none", **options)[0, 0]
    assert torch.allclose(published / published.max(), power / power.max(), rtol=1e-12)


def test_published_mixture_with_white_noise():
    """(K K^T + c^2 I)/(1 + c)."""
    basis = Fourier((16, 16))
    plain, mixed = (kernel_power(basis, at(1, 1)[None], normalise="none", white=c)[0, 0] for c in (None, 0.4))
    assert torch.allclose(mixed, (plain + 0.16) / 1.4, rtol=1e-13)


def color_basis(size=(8, 8)):
    mean = torch.ones(3, dtype=torch.float64) / math.sqrt(3)
    rest = torch.linalg.svd(mean[None]).Vh[1:]
    return ChannelMix.of(Fourier(size), torch.cat([mean[None], rest]))


def test_gray_noise_is_one_field_in_all_channels():
    process = whitened(color_basis(), channels="gray")
    state = process.corrupt(torch.zeros(2, 3, 8, 8).double(), at(1.0, 0.5), field(2, 3, 8, 8))
    assert torch.allclose(state, state[:, :1].expand_as(state), atol=1e-13)
    m, single = process.moments(ONE), whitened(Fourier((8, 8))).moments(ONE)
    assert torch.allclose(m.s2[:, :1], 3 * single.s2, rtol=1e-13)
    assert float(m.s2[:, 1:].max()) == 0
    total = process.basis.unmixed(m.s2.flatten(2).mean(-1))
    assert torch.allclose(total, single.s2.mean().expand(1, 3), rtol=1e-12)


def test_without_a_kernel_it_is_vp():
    basis = Fourier((8, 6))
    for normalise in ("l2", "none"):
        ours, theirs = whitened(basis, 0.0, normalise=normalise), vp(basis)
        for a, b in zip(ours.moments(TIMES), theirs.moments(TIMES), strict=True):
            assert torch.equal(a.expand_as(ours.moments(TIMES).s2), b.expand_as(ours.moments(TIMES).s2))


def test_published_values_of_the_schedule():
    """t: beta, beta / sqrt(1 - a^2), (1 - a^2)/beta, a (structured specification, section 3 (8))."""
    process = with_power(1.0)
    known = {
        0.001: (0.1199, 11.4349, 9.1696e-4, 0.999945),
        0.01: (0.299, 6.69756, 6.66559e-3, 0.999003),
        0.1: (2.09, 6.48962, 0.0496258, 0.946722),
        0.5: (10.05, 10.47252, 0.0916354, 0.281183),
        1.0: (20.0, 20.00043, 0.0499978, 0.00657159),
    }
    for t, values in known.items():
        m, beta = process.moments(at(t)), -2 * float(process.rates(at(t)).F)
        s2 = float(m.s2)
        assert (beta, beta / math.sqrt(s2), s2 / beta, float(m.h)) == pytest.approx(values, rel=1e-5), t


def test_the_whitened_score_is_the_colored_noise_times_one_number():
    process = whitened(Fourier((8, 8)), 2.0)
    u0, w = (process.basis.forward(field(2, 1, 8, 8, seed=s)) for s in (1, 5))
    t = at(0.2, 0.9)
    kappa, n = (target(kind, process, u0, w, t) for kind in ("kappa", "whitened"))
    m, beta = process.moments(t), -2 * process.rates(t).F
    assert torch.allclose(n, -(beta / (1 - m.h**2)) * kappa, rtol=1e-10)
    v = target("velocity", process, u0, w, t)
    assert torch.allclose(v, process.rates(t).F * w - n / 2, rtol=1e-10)


# ---- Algorithm 1 ----


def test_golden_variances_of_algorithm_1():
    """T10: var/P at 250 and 1000 steps from the exact marginal; no Monte Carlo.  Three cases side by side."""
    process, spectrum = with_power(1.0, 0.1, 0.01), at(1.0, 0.25, 2.0)
    m = process.moments(ONE)
    start = (m.h**2 * spectrum + m.s2)[0, 0]
    for n, known in ((250, (1.14912, 1.14709, 1.10403)), (1000, (1.03438, 1.03395, 1.02425))):
        found = gaussian_card(whitened_plan(process, even(n)), spectrum)
        assert torch.allclose(found.start**2 * start / spectrum, at(*known), atol=6e-6)


def test_the_published_sign_blows_up():
    process, spectrum = with_power(1.0), at(1.0)
    found = gaussian_card(whitened_plan(process, even(1000), signs="published"), spectrum)
    assert float(found.start) ** 2 == pytest.approx(4.95129e8, rel=1e-5)


def test_a_white_start_is_off_by_the_kernel():
    """N(0, I) in place of K z: variance 10 and 101 times too large at |K|^2 = 0.1 and 0.01."""
    process = with_power(0.1, 0.01)
    gain = gaussian_card(whitened_plan(process, even(500)), at(1.0, 1.0)).start ** 2
    assert torch.allclose(gain / (0.9999568143 * gain * at(0.1, 0.01)), at(10, 100), rtol=1e-4)
    # what it ends with, of data of variance 1; the exact flow gives 1/(a^2 + s^2), and 500 steps 4 to 7 % more
    m = process.moments(ONE)
    exact = 1 / (m.h**2 + m.s2)[0, 0]
    assert exact.tolist() == pytest.approx([9.996, 99.57], rel=1e-3)
    assert bool(((gain / exact > 1.03) & (gain / exact < 1.08)).all())


def test_the_final_step_is_tweedie():
    process, spectrum = with_power(0.5), at(2.0)
    plan, plain = (whitened_plan(process, even(100), final=final) for final in (True, False))
    before, m = 1.0, process.moments(at(0.01))
    for i in range(99):
        answer = float(wiener(process.moments(plain.times[i : i + 1]), spectrum)[0])
        before *= float(plain[i].keep[0]) + float(plain[i].data[0]) * answer
    assert float(gaussian_card(plan, spectrum).start) == pytest.approx(
        before * float(wiener(m, spectrum)[0]), rel=1e-12
    )


def test_algorithm_1_is_the_same_steps_with_and_without_a_kernel_of_one_pixel():
    basis = Fourier((8, 8))
    spectrum = SPECTRUM.on(basis)
    runs = []
    for process in (whitened(basis, 0.0), vp(basis)):
        denoiser = GaussianDenoiser(process, 0.0, spectrum)
        start = process.start(field(2, 1, 8, 8))
        runs.append(sample(denoiser, whitened_plan(process, even(60)), start, seeds=torch.arange(2)).x)
    assert torch.equal(*runs)


def test_algorithm_1_has_order_1_and_the_flow_of_ddim():
    process = whitened(Fourier((8, 8)), 1.5)
    spectrum = SPECTRUM.on(process.basis)
    exact = gaussian_card(make_plan("gaussian_ode", process, even(10), spectrum), spectrum).start
    errors = [float((gaussian_card(whitened_plan(process, even(n)), spectrum).start - exact).abs().max())
              for n in (150, 300)]  # fmt: skip
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.15)
    fine = gaussian_card(make_plan("ddim", process, even(800), spectrum), spectrum).start
    assert torch.allclose(fine, exact, rtol=0.03)


def test_noise_free_coefficients_pass_algorithm_1():
    """K = 0 at f = 0: the state there is a(t) x_0, and the steps undo the gain."""
    process = whitened(Fourier((8, 8)), 1.5, high=True)
    found = gaussian_card(whitened_plan(process, even(400)), SPECTRUM.on(process.basis))
    a = math.exp(-0.5 * 10.05)
    assert float(found.start[0, 0]) == pytest.approx(1 / a, rel=0.1)  # order 1
    for x in found:
        assert bool(torch.isfinite(x).all())


def test_steps_that_the_square_root_does_not_allow_are_refused():
    with pytest.raises(InputError, match=r"steps of at most 1/beta"):
        whitened_plan(with_power(1.0), even(19))
    whitened_plan(with_power(1.0), even(20))
    erased = Process(lambda basis: lambda t: (1 - t, 0 * t, t**2), Pixel((1,)))
    with pytest.raises(InputError, match="a gain of zero"):
        whitened_plan(erased, even(50))
    with pytest.raises(InputError, match="signs"):
        whitened_plan(with_power(1.0), even(50), signs="plus")


# ---- random kernels ----


def quantiles(processes, weights, count=1201):
    """Points x_1 and weights of the mixture of the terminal laws of N(0, 1) data, by the trapezoidal rule."""
    x = torch.linspace(-12, 12, count, dtype=torch.float64)
    density = torch.zeros_like(x)
    for p, process in zip(weights, processes, strict=True):
        m = process.moments(ONE)
        density += p * torch.distributions.Normal(at(0), (m.h**2 + m.s2).sqrt().flatten()).log_prob(x).exp()
    return x, density * (x[1] - x[0])


@pytest.mark.parametrize("rule", ["heun"])
def test_the_flow_of_an_unknown_kernel_carries_the_mixture(rule):
    """T10: |K|^2 = 0.2 and 2, Gaussian data: variance 1 +- 1e-3 and kurtosis 3 +- 0.01, by quadrature."""
    processes = (with_power(0.2), with_power(2.0))
    base, basis = vp(Pixel((1,))), Pixel((1,))
    data = GaussianLaw(basis, torch.zeros(1).double(), torch.ones(1).double())
    denoiser = UnknownKernel(base, processes, data)
    x, mass = quantiles(processes, (0.5, 0.5))
    times = torch.linspace(1, 1e-3, 121, dtype=torch.float64) ** 1.5
    plan = make_plan(rule, base, times)
    out = sample(denoiser, plan, x.reshape(-1, 1, 1), seeds=torch.arange(len(x))).x.flatten()
    variance = float((mass * out**2).sum())
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
    assert variance == pytest.approx(1, abs=1e-3)
    assert float((mass * out**4).sum()) / variance**2 == pytest.approx(3, abs=0.01)


def test_the_ancestral_chain_of_an_unknown_kernel_does_not():
    """Its noise is that of one kernel: with the schedule's own (|K|^2 = 1) the kurtosis is not 3."""
    processes = (with_power(0.2), with_power(2.0))
    base, basis = vp(Pixel((1,))), Pixel((1,))
    denoiser = UnknownKernel(base, processes, GaussianLaw(basis, torch.zeros(1).double(), torch.ones(1).double()))
    n, generator = 20000, torch.Generator().manual_seed(1)

    def draw(seeds, stream, step, shape):
        return torch.randn(len(seeds), *shape, generator=generator, dtype=torch.float64)

    seeds = torch.arange(n)
    power = torch.where(seeds % 2 == 0, 0.2, 2.0).double().reshape(-1, 1, 1)
    start = (base.moments(ONE).s2 * power).sqrt() * draw(seeds, "", 0, (1, 1))
    plan = make_plan("ancestral", base, torch.linspace(1, 0, 61, dtype=torch.float64))
    out = sample(denoiser, plan, start, seeds=seeds, noise=draw).x
    assert abs(float(out.square().mean()) - 1) > 10 * math.sqrt(2 / n)


def test_unknown_kernels_are_weighted_by_their_evidence():
    """Against the quotient of integrals over the two joint densities."""
    processes = (with_power(0.2), with_power(2.0))
    data = GaussianLaw(Pixel((1,)), at(0.3), at(0.7))
    denoiser = UnknownKernel(vp(Pixel((1,))), processes, data, (0.3, 0.7))
    grid = torch.linspace(-8, 8, 40001, dtype=torch.float64)
    x, t = 0.9, at(0.4)
    top = bottom = 0.0
    for p, process in zip((0.3, 0.7), processes, strict=True):
        m = process.moments(t)
        joint = p * torch.distributions.Normal(at(0.3), at(0.7).sqrt()).log_prob(grid).exp()
        joint = joint * torch.distributions.Normal(m.h.flatten() * grid, m.s2.sqrt().flatten()).log_prob(at(x)).exp()
        top, bottom = top + float((grid * joint).sum()), bottom + float(joint.sum())
    assert float(denoiser(at(x).reshape(1, 1, 1), t)) == pytest.approx(top / bottom, rel=1e-9)


def test_one_known_kernel_is_the_gaussian_denoiser():
    process = whitened(Fourier((6, 6)), 1.0)
    spectrum = SPECTRUM.on(process.basis)
    data = GaussianLaw(process.basis, torch.zeros_like(spectrum), spectrum)
    x, t = field(2, 1, 6, 6), at(0.2, 0.8)
    one = UnknownKernel(vp(process.basis), (process, process), data)
    assert torch.allclose(one(x, t), GaussianDenoiser(process, 0.0, spectrum)(x, t), atol=1e-13)
    with pytest.raises(InputError, match="another gain"):
        UnknownKernel(vp(process.basis, beta_max=10.0), (process,), data)
    with pytest.raises(InputError, match="weights"):
        UnknownKernel(vp(process.basis), (process,), data, (0.5, 0.5))


def test_every_item_has_a_kernel_of_its_own_and_a_batch_is_its_items():
    basis, seeds = Fourier((8, 8)), torch.tensor([3, 9, 4])
    law = KernelLaw((0.3, 2.5), white=0.3)
    process = law(basis, seeds)
    widths = law.drawn_widths(seeds, 2)
    for k in range(3):
        assert torch.equal(law(basis, seeds[k : k + 1]).moments(at(0.5)).s2[0], process.moments(at(0.5)).s2[k])
    assert len({round(float(w), 9) for w in widths.flatten()}) == 6
    assert bool(((widths >= 0.3) & (widths <= 2.5)).all())
    plain = KernelLaw((0.3, 2.5))
    table = plain.power(basis, seeds)
    for k in range(3):
        alone = whitened(basis, [float(w) for w in widths[k]]).moments(ONE).s2[0]
        assert torch.allclose((1 - math.exp(-10.05)) * table[k], alone, rtol=1e-12)
    assert process.markov


def test_widths_have_the_law_that_is_said():
    seeds = torch.arange(2000)
    u = KernelLaw((0.5, 2.0)).drawn_widths(seeds, 1)
    v = KernelLaw((0.5, 2.0), log=True).drawn_widths(seeds, 1)
    assert float(u.mean()) == pytest.approx(1.25, abs=4 * 1.5 / math.sqrt(12 * 2000))
    assert float(v.log().mean()) == pytest.approx(0.0, abs=4 * math.log(4) / math.sqrt(12 * 2000))
    same = KernelLaw((0.5, 2.0), isotropic=True).drawn_widths(seeds[:5], 2)
    assert torch.equal(same[:, 0], same[:, 1])
    gray = KernelLaw((0.5, 2.0), gray=0.25).power(color_basis((2, 2)), seeds)
    assert float((gray[:, 1].flatten(1).amax(1) == 0).double().mean()) == pytest.approx(0.25, abs=0.04)


# ---- training without an inverse ----


def singular(basis):
    """A law of kernels with zeros, and with powers down to 1e-60."""
    table = torch.ones(basis.shape, dtype=torch.float64)
    table[1:3] = 0.0
    table[4] = 1e-60
    base = vp(basis)
    return Process(lambda bound: lambda t: (base.law(t)[0], 0 * t, base.law(t)[2] * table), basis)


FREE = [("wiener", "unit"), ("data", "data"), ("kappa", "soft"), ("kappa", "kappa"), ("whitened", "whitened"),
        ("velocity", "whitened")]  # fmt: skip


def loss_of(predicts, weight, process, x0, law=None):
    torch.manual_seed(0)
    net = UNet(in_channels=2, out_channels=1, width=8, multipliers=(1, 2))
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.05)
    denoiser = NetDenoiser(net, process, SPECTRUM, predicts=predicts)
    loss = denoising_loss(denoiser, x0, torch.arange(len(x0)), weight, law=law)
    loss.total.mean().backward()
    gradient = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    return loss.total.detach(), gradient


@pytest.mark.parametrize(("predicts", "weight"), FREE)
def test_a_kernel_with_zeros_trains_with_finite_losses_and_gradients(predicts, weight):
    """In float32, as networks run: nothing is larger than with the kernel of one pixel by more than its beta^2."""
    basis, x0 = Fourier((16, 16)), field(4, 1, 16, 16).float()
    for process in (singular(basis), vp(basis)):
        loss, gradient = loss_of(predicts, weight, process, x0)
        assert bool(torch.isfinite(loss).all())
        assert bool(torch.isfinite(gradient).all())
        assert float(loss.max()) < 1e4
        assert float(gradient.norm()) > 0


@pytest.mark.parametrize("weight", ["eps", "score"])
def test_the_losses_that_divide_by_the_kernel_do_not(weight):
    """With |K|^2 = 1e-60 what a network rounds off is divided by it: what the whitened score is there for."""
    x0 = field(4, 1, 16, 16).float()
    loss, _ = loss_of("kappa", weight, singular(Fourier((16, 16))), x0)
    assert not float(loss.max()) < 1e30


@pytest.mark.parametrize(("predicts", "weight"), FREE)
def test_random_kernels_train_every_item_with_its_own(predicts, weight):
    basis, x0 = Fourier((16, 16)), field(3, 1, 16, 16).float()
    law = KernelLaw((0.2, 4.0), white=0.1)
    whole, _ = loss_of(predicts, weight, whitened(basis), x0, law)
    assert bool(torch.isfinite(whole).all())
    first, _ = loss_of(predicts, weight, whitened(basis), x0[:1], law)
    assert torch.allclose(whole[:1], first, rtol=1e-5)


@pytest.mark.parametrize("kind", [k for k, p in PREDICTIONS.items() if k != "score" and not p.anchored])
def test_predictions_go_there_and_back_where_the_kernel_has_zeros(kind):
    """Of a noise-free coefficient the data are w / h, whatever a network says of its noise."""
    process = singular(Fourier((8, 8)))
    u0 = process.basis.forward(field(2, 1, 8, 8))
    t = at(0.2, 0.7)
    m = process.moments(t)
    w = m.h * u0 + m.s2.sqrt() * process.basis.forward(field(2, 1, 8, 8, seed=9))
    found = target(kind, process, u0, w, t)
    assert bool(torch.isfinite(found.abs()).all())
    assert torch.allclose(to_data(kind, process, found, w, t), u0, atol=1e-9)
    if kind in ("kappa", "whitened"):
        assert float(found[:, :, 1:3].abs().max()) < 1e-12


def test_the_kappa_loss_is_that_of_the_noise_of_unit_scale():
    """|K z - prediction|^2 over the mean of |K|^2: h^2/mean(s^2) on the data."""
    basis = Cosine((6, 6))
    process = whitened(basis, 1.0)
    from retrodict.training.losses import _weighted

    error, t = field(2, 1, 6, 6), at(0.3, 0.8)
    m = process.moments(t)
    kappa = m.h * basis.forward(error)
    expected = (kappa**2).flatten(1).mean(1) / m.s2.flatten(1).mean(1)
    assert torch.allclose(_weighted(process, error, t, "kappa"), expected, rtol=1e-12)


# ---- likelihoods ----


def task(width=1.5, sd=0.5, blur=None, size=(8, 8)):
    """A structured process and the law of a measurement with its noise."""
    process = whitened(Fourier(size), width, white=0.1)
    power = kernel_power(process.basis, at(width, width)[None], white=0.1)[0, 0]
    gain = torch.ones_like(power) if blur is None else torch.exp(-2 * (math.pi * blur * process.basis.radius()) ** 2)
    return process, Moments(gain, torch.zeros_like(gain), sd**2 * power)


@pytest.mark.parametrize("state", ["as image", "scaled"])
@pytest.mark.parametrize("blur", [None, 0.7])
def test_the_guided_score_is_the_gradient_of_the_log_likelihood(state, blur):
    """(h D' - x)/s^2 - (h D - x)/s^2 = lambda grad_x log p(y | x), by automatic differentiation, dense."""
    process, law = task(blur=blur)
    y, x, t = field(1, 1, 8, 8), field(1, 1, 8, 8, seed=3).requires_grad_(), at(0.35)
    m, basis = process.moments(t), process.basis
    scale, extra = (1.0, 0.0) if state == "as image" else (m.h, law.h**2 * m.s2 / m.h**2)
    residual = basis.forward(y) - law.h * basis.forward(x) / scale
    chi2 = (basis.multiplicity() * basis.energy(residual) / (law.s2 + extra)).sum()
    (gradient,) = torch.autograd.grad(-0.5 * chi2, x)
    inner = GaussianDenoiser(process, 0.0, SPECTRUM.on(basis))
    guided = LikelihoodGuided(inner, y, law, 0.7, state)
    with torch.no_grad():
        change = basis.forward(guided(x, t) - inner(x, t)) * m.h / m.s2
    assert torch.allclose(basis.inverse(change), 0.7 * gradient, atol=1e-9)
    down = LikelihoodGuided(inner, y, law, 0.7, state, sign="published")
    with torch.no_grad():
        assert torch.allclose(down(x, t) - inner(x, t), inner(x, t) - guided(x, t), atol=1e-12)


def test_the_kernel_cancels_where_prior_and_measurement_share_it():
    """D' - D = lambda (1 - a^2)/(h sigma_y^2) A (y - A x), no kernel in it, whatever the kernel; at its zeros too."""
    basis, t, sd = Fourier((8, 8)), at(0.3), 0.5
    y, x = field(1, 1, 8, 8), field(1, 1, 8, 8, seed=3)
    base = singular(basis)
    table = base.moments(ONE).s2[0, 0] / (1 - math.exp(-10.05))
    law = Moments(torch.ones_like(table), torch.zeros_like(table), sd**2 * table)
    inner = FunctionDenoiser(lambda x, t: 0 * x, base)
    h = float(base.moments(t).h.flatten()[0])
    expected = (1 - h**2) / (h * sd**2) * (y - x)
    assert torch.allclose(LikelihoodGuided(inner, y, law)(x, t), expected, rtol=1e-9)


def test_the_scaled_likelihood_is_the_posterior_of_a_flat_prior():
    process, law = task(blur=0.7)
    y, x, t = field(1, 1, 8, 8), field(1, 1, 8, 8, seed=3), at(0.35)
    wide = 1e12 * torch.ones(process.basis.shape, dtype=torch.float64)
    inner = GaussianDenoiser(process, 0.0, wide)
    from retrodict.denoisers.wrappers import Fused

    fused = Fused(inner, y, Moments(*(v[None, None] for v in law)))(x, t)
    assert torch.allclose(LikelihoodGuided(inner, y, law, state="scaled")(x, t), fused, rtol=1e-8, atol=1e-8)


def test_the_published_code_scales_the_gradient_to_the_whitened_score():
    """n' = n - lambda ||n|| g/||g|| with g = grad ||y - A x||, item by item."""
    process, law = task(blur=0.7)
    y, x, t = field(2, 1, 8, 8), field(2, 1, 8, 8, seed=3).requires_grad_(), at(0.35, 0.6)
    basis = process.basis
    residual = (y - basis.inverse(law.h * basis.forward(x))).flatten(1).norm(dim=1)
    (g,) = torch.autograd.grad(residual.sum(), x)
    inner = GaussianDenoiser(process, 0.0, SPECTRUM.on(basis))
    m, rate = process.moments(t), process.rates(t)

    def n_of(d):
        with torch.no_grad():
            return basis.inverse(rate.G2 / m.s2 * (m.h * basis.forward(d(x, t)) - basis.forward(x)))

    n = n_of(inner)
    size = n.flatten(1).norm(dim=1) / g.flatten(1).norm(dim=1)
    expected = n - 0.3 * size[:, None, None, None] * g
    assert torch.allclose(n_of(LikelihoodGuided(inner, y, law, 0.3, "norm")), expected, rtol=1e-9, atol=1e-9)


def test_the_card_of_a_guided_run_is_the_run_itself():
    process, law = task(blur=0.7)
    spectrum = SPECTRUM.on(process.basis)
    y, z = field(1, 1, 8, 8), field(1, 1, 8, 8, seed=3)
    guided = LikelihoodGuided(GaussianDenoiser(process, 0.0, spectrum), y, law, 0.5)
    plan = whitened_plan(process, even(80))
    start = process.start(z)
    found = card(plan, guided)
    basis = process.basis
    expected = basis.inverse(found.start * start + found.measurement * basis.forward(y) + found.offset)
    assert torch.allclose(sample(guided, plan, start, seeds=torch.tensor([0])).x, expected, atol=1e-10)


# ---- bad input ----


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: whitened(Pixel((8, 8))), "whitened basis"),
        (lambda: whitened(Wavelet((8, 8), levels=1)), "whitened basis"),
        (lambda: whitened(Fourier((8, 8)), (1.0, 2.0, 3.0)), "whitened width"),
        (lambda: whitened(Fourier((8, 8)), -1.0), "whitened width"),
        (lambda: whitened(Fourier((8, 8)), math.nan), "whitened width"),
        (lambda: whitened(Fourier((8, 8)), normalise="l1"), "whitened normalise"),
        (lambda: whitened(Fourier((8, 8)), white=-0.1), "whitened white"),
        (lambda: whitened(Fourier((8, 8)), channels="gray"), "ChannelMix"),
        (lambda: whitened(Fourier((8, 8)), channels="grey"), "whitened channels"),
        (lambda: whitened(Fourier((8, 8)), 0.0, high=True), "zero everywhere"),
        (lambda: KernelLaw((2.0, 1.0)), "KernelLaw.widths"),
        (lambda: KernelLaw((0.0, 1.0), log=True), "KernelLaw.widths"),
        (lambda: KernelLaw(gray=1.5), "KernelLaw.gray"),
        (lambda: KernelLaw(white=-1.0), "KernelLaw white"),
        (lambda: KernelLaw(gray=1.0).power(Fourier((4, 4)), torch.arange(2)), "ChannelMix"),
        (lambda: KernelLaw()(Fourier((4, 4)), torch.arange(2)).on((8, 8)).law, "another grid"),
    ],
)
def test_bad_input_is_refused_by_name(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_a_likelihood_without_a_density_is_refused():
    process, law = task()
    inner = GaussianDenoiser(process, 0.0, SPECTRUM.on(process.basis))
    y = field(1, 1, 8, 8)
    with pytest.raises(InputError, match="without noise"):
        LikelihoodGuided(inner, y, law._replace(s2=0 * law.s2))
    with pytest.raises(InputError, match="state"):
        LikelihoodGuided(inner, y, law, state="image")
    with pytest.raises(InputError, match="not linear"):
        LikelihoodGuided(inner, y, law, state="norm").linear(ONE)
