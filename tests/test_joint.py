"""The wavelet network, Stein's loss for it, and the joint scheme: fixed points in closed form, and a whole run."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from retrodict import ClockLaw, InputError, JointNet, JointScheme, ShrinkDenoiser, WaveletShrink
from retrodict._random import key
from retrodict.bases import Fourier, Pixel, Wavelet
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.network import NetDenoiser
from retrodict.denoisers.shrink import FAMILY, band_noise_of, shrunk, spread_shifts
from retrodict.nets.shrink import soft
from retrodict.processes.clocks import at_rest
from retrodict.processes.fourier import fourier, measured
from retrodict.training import ambient
from retrodict.training.ambient import own_error
from retrodict.training.joint import random_shifts, refined, shrink_alone, shrink_loss
from retrodict.training.loop import Stepped, TrainingOptions, train
from retrodict.training.losses import Example, denoising_loss, mean_over

F64 = torch.float64
LAW = ClockLaw(noise=(0.5, 3.0))


def seeds(count, stream="joint"):
    return torch.tensor([key(0, stream, k) for k in range(count)])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def signs(*shape, seed=0):
    return normal(*shape, seed=seed).sign()


def colored(basis):
    """Noise variances that rise with |f|, `(1, 1, *K)`."""
    return (0.2 + 3 * basis.radius())[None, None]


def adapted(seed=0, **options):
    """A network whose thresholds and residuals are not those of the start."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = WaveletShrink(**{"width": 4, **options}).double()
        for level in net.each:
            torch.nn.init.normal_(level.head.conv.weight, std=0.2)
            torch.nn.init.normal_(level.threshold, std=1.0)
    return net.requires_grad_(False)


class Gains(torch.nn.Module):
    """One gain for every detail band, in place of a network."""

    def __init__(self, levels, ndim=2):
        super().__init__()
        self.levels, self.ndim = levels, ndim
        self.gain = torch.ones(levels, 2**ndim - 1, dtype=F64)

    def forward(self, bands, noise):
        return [g[:, None, None, None] * d for g, d in zip(self.gain, bands, strict=True)]


class Scalars(torch.nn.Module):
    """N = a (noise estimate), log-ratios 0: a = 0 is the Wiener filter."""

    stride, receptive_field = 1, 1

    def __init__(self, bands=2):
        super().__init__()
        self.a, self.bands = torch.nn.Parameter(torch.zeros((), dtype=F64)), bands

    def forward(self, x, level):
        return torch.cat([self.a * x[:, 1:2], torch.zeros(len(x), self.bands, *x.shape[2:], dtype=x.dtype)], 1)


def white_denoiser(variance, size=8):
    process = fourier(Fourier((size, size)))
    return NetDenoiser(Scalars(), process, spectrum=Spectrum.flat(0.0, variance), level="clock", bands=2)


def joint_denoiser(size=16, **options):
    spectrum, small = Spectrum.power_law(0.0, 4.0, 0.1, 2.5), {"width": 4, "multipliers": (1,), "embedding": 8}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = JointNet(
            in_channels=2, out_channels=3, level_features=8, shrink={"width": 4}, **small, **options
        ).double()
        for p in net.parameters():
            p.data += 0.05 * torch.randn(p.shape, dtype=F64)
    return NetDenoiser(net, fourier(Fourier((size, size))), spectrum=spectrum, level="clock", bands=2)


def lowest(values, at=(-1.0, 0.0, 1.0)):
    """Where the parabola through three values has its minimum."""
    (low, middle, high), step = values, at[1] - at[0]
    return at[1] + 0.5 * step * (low - high) / (low - 2 * middle + high)


# ---- the network -----------------------------------------------------------------------------------------------------


def test_soft_shrinkage_is_odd_smooth_and_soft_far_from_its_corner():
    u, threshold = torch.linspace(-8, 8, 161, dtype=F64), torch.tensor(1.5, dtype=F64)
    sharp = u.sign() * (u.abs() - threshold).clamp_min(0)
    assert torch.allclose(soft(u, threshold, 0.0), sharp, atol=1e-12)
    found = soft(u, threshold)
    assert torch.allclose(found, -found.flip(0), atol=1e-12)
    assert torch.equal(soft(u, torch.zeros_like(u)), u)
    far = u.abs() > 5
    assert float((found - sharp)[far].abs().max()) < 0.5**2 / (2 * 3.5)  # w^2 / (2 (|u| - T)) and less
    assert torch.autograd.gradcheck(lambda x: soft(x, threshold), (u[::20].clone().requires_grad_(),))


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_the_network_is_equivariant_in_scale_leaves_bands_without_noise_and_sees_each_item_alone(ndim):
    net = adapted(ndim=ndim, levels=2)
    each = 2**ndim - 1
    bands = [3 * normal(4, each, 2, *[n] * ndim, seed=n) for n in (8, 4)]
    noise = [0.5 + normal(4, each, 2, seed=n).abs() for n in (1, 2)]
    out = net(bands, noise)
    scaled = net([7.5 * d for d in bands], [7.5 * s for s in noise])
    for a, b, d in zip(out, scaled, bands, strict=True):
        assert a.shape == d.shape
        assert torch.allclose(7.5 * a, b, rtol=1e-12, atol=1e-12)
        assert float((a - d).abs().max()) > 0.1
    alone = net([d[2:3] for d in bands], [s[2:3] for s in noise])
    shared = net([d[:, :, 1:] for d in bands], [s[:, :, 1:] for s in noise])
    for a, b, c in zip(out, alone, shared, strict=True):
        assert torch.allclose(a[2:3], b, atol=1e-13)
        assert torch.allclose(a[:, :, 1:], c, atol=1e-13)
    noise[0][:, 0] = 0.0
    kept = net(bands, noise)
    assert torch.equal(kept[0][:, 0], bands[0][:, 0])
    assert all(bool(d.isfinite().all()) for d in kept)


def test_a_new_network_is_soft_shrinkage_at_one_deviation():
    net, d, s = WaveletShrink(levels=1).double(), 3 * normal(2, 3, 1, 8, 8), torch.tensor([[0.5, 1.0, 2.0]]).double()
    with torch.no_grad():
        found = net([d], [s[..., None]])[0]
    s = s.reshape(1, 3, 1, 1, 1)
    assert torch.allclose(found, s * soft(d / s, torch.tensor(1.0, dtype=F64)), atol=1e-6)  # a is a float32 at first


def test_the_noise_of_a_band_is_that_of_its_coefficients():
    """Rows of W C^1/2 written out, for noise of a color by item; white noise has the same in all bands of any basis."""
    basis = Fourier((8, 16))
    wavelet = Wavelet((8, 16), levels=2, family=FAMILY, alignment="centered")
    noise = torch.cat([colored(basis), 2 + 0 * colored(basis)])
    unit = torch.eye(128, dtype=F64).reshape(128, 1, 8, 16)
    rows = wavelet.forward(basis.inverse(noise[:1].sqrt() * basis.forward(unit)))[:, 0]
    found = band_noise_of(noise, basis, wavelet)
    for band, place in wavelet.places().items():
        assert float(found[band][0, 0]) == pytest.approx(float((rows**2).sum(0)[place].mean()), rel=1e-12)
        assert float(found[band][1, 0]) == pytest.approx(2.0, rel=1e-12)
    flat = band_noise_of(torch.full((1, 1, 8, 16), 3.0, dtype=F64), Pixel((8, 16)), wavelet)
    assert {float(x) for x in flat.values()} == {3.0}
    with pytest.raises(InputError, match="white noise"):
        band_noise_of(torch.arange(128, dtype=F64).reshape(1, 1, 8, 16), Pixel((8, 16)), wavelet)


def test_thresholds_of_nothing_leave_an_image_and_all_shifts_together_know_no_place():
    basis = Fourier((16, 16))
    noise, y = colored(basis).expand(2, 1, *basis.shape), 3 * normal(2, 1, 16, 16)
    net = WaveletShrink(levels=2, width=4).double().requires_grad_(False)
    for level in net.each:
        torch.nn.init.constant_(level.threshold, -800.0)
    assert torch.allclose(shrunk(net, y, noise, basis, random_shifts(net, seeds(2), 3, "x")), y, atol=1e-12)
    net = adapted(levels=2)
    every = torch.tensor(list(itertools.product(range(4), repeat=2)))[None]
    moved = torch.roll(y, (3, 1), (2, 3))
    a, b = shrunk(net, y, noise, basis, every), shrunk(net, moved, noise, basis, every)
    assert torch.allclose(torch.roll(a, (3, 1), (2, 3)), b, atol=1e-12)
    one = shrunk(net, moved, noise, basis, every[:, :1])
    assert float((torch.roll(shrunk(net, y, noise, basis, every[:, :1]), (3, 1), (2, 3)) - one).abs().max()) > 1e-3
    assert len(spread_shifts(16, 3, 2)[0].unique(dim=0)) == 16
    assert torch.equal(spread_shifts(64, 3, 2)[0, :16], spread_shifts(16, 3, 2)[0])


def test_as_a_denoiser_it_takes_an_instrument_without_blur_and_is_refused_what_it_cannot_see():
    net, basis = adapted(levels=2), Fourier((16, 16))
    noise = colored(basis)
    y, t = 3 * normal(2, 1, 16, 16), torch.ones(2, dtype=F64)
    alone = ShrinkDenoiser(net, at_rest(basis, noise), shifts=4)
    said = alone.estimate(y, t)
    shifts = spread_shifts(4, 2, 2)
    assert torch.allclose(said.mean, shrunk(net, y, noise, basis, shifts), atol=1e-13)
    assert said.spread is None
    assert alone.multiple == 4
    blurred = alone.at(measured(basis, *_instrument()))
    x = blurred(basis.inverse(blurred.process.moments(t).h * basis.forward(y)), t)
    clock = blurred.process.moments(t)
    assert torch.allclose(x, shrunk(net, y, clock.s2 / clock.h**2, basis, shifts), atol=1e-12)  # w / h, and its noise
    with pytest.raises(InputError, match="multiples of 4"):
        ShrinkDenoiser(net, at_rest(Fourier((18, 16)), colored(Fourier((18, 16)))))
    with pytest.raises(InputError, match="a WaveletShrink"):
        ShrinkDenoiser(Scalars(), at_rest(basis, noise))
    with pytest.raises(InputError, match="shifts"):
        ShrinkDenoiser(net, at_rest(basis, noise), shifts=0)
    with pytest.raises(InputError, match="levels"):
        WaveletShrink(levels=0)
    with pytest.raises(InputError, match="1 levels"):
        net([y[:, :, None]], [torch.ones(1, 3, 1)])


def _instrument():
    from retrodict.bases.curve import Curve

    f = [0.0, 0.4, 1.0]
    return Curve.isotropic(f, [1.0, 0.8, 0.5], "1"), Curve.isotropic(f, [0.5, 0.9, 0.4], "unit^2 mm^2")


# ---- Stein's estimate ------------------------------------------------------------------------------------------------


def test_the_probed_divergence_of_the_shrinkage_is_the_exact_one(monkeypatch):
    """Rows of a Hadamard matrix as probes: their mean is tr(C J) but for the length of the step; J from autograd."""
    net, basis = adapted(levels=2), Fourier((8, 8))
    noise, y = colored(basis), 2 * normal(1, 1, 8, 8)
    shifts = torch.tensor([[[1, 2]]])
    denoise = lambda x: shrunk(net, x, noise, basis, shifts)  # noqa: E731
    jacobian = torch.autograd.functional.jacobian(denoise, y).reshape(64, 64)
    unit = torch.eye(64, dtype=F64).reshape(64, 1, 8, 8)
    covariance = basis.inverse(noise * basis.forward(unit)).reshape(64, 64)
    exact = float((covariance * jacobian.T).sum())
    residual = float((basis.energy(basis.forward(denoise(y) - y)) * basis.multiplicity()).sum())
    total = float((noise * basis.multiplicity()).sum())
    rows = torch.ones(1, 1, dtype=F64)
    for _ in range(6):
        rows = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=F64), rows)
    many, repeated = y.expand(64, 1, 8, 8), noise.expand(64, 1, *basis.shape)
    for step, tolerance in ((1e-5, 1e-5), (ambient.STEP, 0.02)):
        monkeypatch.setattr(ambient, "STEP", step)
        found = own_error(denoise, many, repeated, rows.reshape(64, 1, 8, 8), basis)[1]
        stein = float((found * basis.multiplicity()).flatten(1).sum(1).mean())
        assert (stein - residual + total) / 2 == pytest.approx(exact, rel=tolerance)


@pytest.mark.parametrize("s2", [0.25, 1.0, 4.0])
def test_steins_estimate_finds_the_gain_of_every_band_and_its_images_a_prior_that_is_too_narrow(s2):
    """Bands of variance v in white noise, energies exact: g = v / (v + s2), and g y has the variance v^2 / (v + s2)."""
    basis, levels = Fourier((16, 16)), 2
    wavelet = Wavelet((16, 16), levels=levels, family=FAMILY, alignment="centered")
    variances = {band: 0.3 + k for k, band in enumerate(wavelet.places())}
    table = wavelet.spread({band: torch.tensor(v, dtype=F64) for band, v in variances.items()})
    y = wavelet.inverse((table + s2).sqrt() * signs(1, 1, 16, 16))
    noise, probe = torch.full((1, 1, *basis.shape), s2, dtype=F64), wavelet.inverse(signs(1, 1, 16, 16, seed=1))
    net, nowhere = Gains(levels), torch.zeros(1, 1, 2, dtype=torch.long)

    def stein(level, k, gain):
        net.gain[level - 1, k] = gain
        found = own_error(lambda x: shrunk(net, x, noise, basis, nowhere), y, noise, probe, basis)[1]
        return float((found * basis.multiplicity()).sum())

    for level in (1, 2):
        for k, name in enumerate(("ad", "da", "dd")):
            v = variances[level, name]
            net.gain[level - 1, k] = lowest([stein(level, k, g) for g in (-1.0, 0.0, 1.0)])
            assert float(net.gain[level - 1, k]) == pytest.approx(v / (v + s2), rel=1e-10)
    parts = wavelet.split(wavelet.forward(shrunk(net, y, noise, basis, nowhere)))
    for band, v in variances.items():
        if band[1] != "aa":
            assert float(parts[band].square().mean()) == pytest.approx(v**2 / (v + s2), rel=1e-10)


def orthogonal(size=8):
    """Two images of signs with nothing in common, `(1, 1, *N)`."""
    one = torch.ones(size, dtype=F64)
    one[1::2] = -1
    return one.expand(size, size)[None, None].contiguous(), one[:, None].expand(size, size)[None, None].contiguous()


def test_the_score_network_learns_the_variance_of_the_denoised_images():
    """v = 1, s2 = 2: shown D_w(y) = g y it learns the gain u / (u + r), u = v^2 / (v + s2) = v / 3, at a clock r."""
    v, s2, clock = 1.0, 2.0, 0.7
    x, z = orthogonal()
    clean = v / (v + s2) * math.sqrt(v + s2) * x
    denoiser, values = white_denoiser(v), []
    law = lambda b, _: at_rest(b, torch.full((1, 1, *b.shape), clock, dtype=F64))  # noqa: E731
    for a in (-1.0, 0.0, 1.0):
        torch.nn.init.constant_(denoiser.net.module.a, a)
        found = denoising_loss(denoiser, Example(clean, white=z), seeds(1), "unit", 0.0, law=law).total
        values.append(float(found.detach()))
    torch.nn.init.constant_(denoiser.net.module.a, lowest(values))
    bound = denoiser.at(law(denoiser.process.basis, None))
    u = v**2 / (v + s2)
    with torch.no_grad():
        assert float(bound(torch.ones_like(x), torch.ones(1, dtype=F64)).mean()) == pytest.approx(
            u / (u + clock), rel=1e-9
        )


# ---- feedback --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.1, 1.0])
@pytest.mark.parametrize("kind", ["naive", "consistent", "consistent, right prior"])
def test_the_fixed_point_of_the_feedback(kind, weight):
    """v = s2 = 1, kappa = 1/2.  The score network is the Wiener filter of what it has learned, u = g^2 (v + s2).

    Naive: g = kappa / (1 + w (1 - rho)), rho = u / (u + s2).  Given y: g = (kappa + w u / (u + s2)) / (1 + w), and
    kappa where the prior is right, u = v.
    """
    v = s2 = 1.0
    kappa, g, size = v / (v + s2), v / (v + s2), 8
    x, z = orthogonal(size)
    basis = Fourier((size, size))
    y, noise = math.sqrt(v + s2) * x, torch.full((1, 1, *basis.shape), s2, dtype=F64)
    scheme = JointScheme(LAW, weight, after=0, share=1.0, consistent=kind != "naive")
    made = Example(y, noise=noise)

    def loss(gain, target):
        stein = own_error(lambda a: gain * a, y, noise, z, basis)[1]
        return float(mean_over(stein, basis) / s2 + weight * (gain * y - target).square().mean() / s2)

    for _ in range(60):
        u = v if kind.endswith("prior") else g**2 * (v + s2)
        denoiser = white_denoiser(u, size)
        target = refined(denoiser, g * y, y, noise, seeds(1), consistent=scheme.consistent)
        if scheme.consistent:  # a draw: what is left of y on average
            target = target - refined(denoiser, 0 * y, 0 * y, noise, seeds(1), consistent=True)
            assert torch.allclose(target, u / (u + s2) * y, atol=1e-10)
        else:
            fed = scheme._fed(denoiser, g * y, made, seeds(1))
            assert float(fed) == pytest.approx(float((g * y - target).square().mean() / s2), rel=1e-10)
        g = lowest([loss(a, target) for a in (-1.0, 0.0, 1.0)])
    u = v if kind.endswith("prior") else g**2 * (v + s2)
    rho = u / (u + s2)
    wanted = {
        "naive": kappa / (1 + weight * (1 - rho)),
        "consistent": (kappa + weight * rho) / (1 + weight),
        "consistent, right prior": kappa,
    }[kind]
    assert g == pytest.approx(wanted, rel=1e-8)
    known = {("naive", 0.1): 0.467470, ("consistent", 0.1): 0.483509}
    if (kind, weight) in known:
        assert g == pytest.approx(known[kind, weight], abs=2e-6)


# ---- the objective ---------------------------------------------------------------------------------------------------


def noisy_images(denoiser, count, seed=0):
    basis = denoiser.process.basis
    noise = 0.1 * colored(basis).expand(count, 1, *basis.shape)
    x = denoiser.spectrum.on(basis).sqrt() * basis.forward(normal(count, 1, *basis.size, seed=seed))
    y = [basis.inverse(x + noise.sqrt() * basis.forward(normal(count, 1, *basis.size, seed=seed + k))) for k in (1, 2)]
    return Example(y[0], noise=noise), y[1], basis.inverse(x)


def test_items_are_alone_and_no_gradient_passes_between_the_networks():
    denoiser = joint_denoiser()
    made, *_ = noisy_images(denoiser, 12)
    scheme = JointScheme(LAW, feedback=0.5, after=0, share=0.5)
    whole = scheme(denoiser, made, seeds(12), "unit", 0.1)
    part = scheme(denoiser, Example(made.x0[3:7], noise=made.noise[3:7]), seeds(12)[3:7], "unit", 0.1)
    for a, b in zip(whole, part, strict=True):
        assert torch.allclose(a[3:7], b, rtol=1e-9, atol=1e-12)
    names = {name for name, _ in denoiser.net.named_parameters()}

    def reached(value):
        denoiser.net.zero_grad(set_to_none=True)
        value.backward(retain_graph=True)
        return {name for name, p in denoiser.net.named_parameters() if p.grad is not None}

    basis = denoiser.process.basis
    own, image = shrink_loss(denoiser.net.shrink, made, seeds(12), basis)
    fed = scheme._fed(denoiser, image, made, seeds(12))
    of_wavelets = {name for name in names if name.startswith("shrink.")}
    assert reached(own.mean()) == of_wavelets
    assert reached(fed.mean()) == of_wavelets
    assert reached(whole.total.mean()) == names
    plain = (
        scheme.at_step(0) if scheme.after else JointScheme(LAW, feedback=0.0)(denoiser, made, seeds(12), "unit", 0.1)
    )
    assert torch.allclose(whole.total - plain.total, 0.5 * fed, rtol=1e-9, atol=1e-12)
    assert int((fed != 0).sum()) not in (0, 12)  # a share of them
    assert reached((plain.total - own).mean()) == names  # the score network, and Stein's part that cancels
    grads = [p.grad.abs().max() for name, p in denoiser.net.named_parameters() if name.startswith("shrink.")]
    assert float(torch.stack(grads).max()) < 1e-10


def test_steins_loss_and_a_second_scan_both_estimate_the_error_to_the_truth():
    """Colored noise, a network as it starts: the means of both are that of the true error within 4 deviations."""
    denoiser = joint_denoiser()
    net, basis, count = WaveletShrink(levels=2, width=4).double().requires_grad_(False), denoiser.process.basis, 1500
    made, second, x = noisy_images(denoiser, count)
    by_stein, image = shrink_loss(net, made, seeds(count), basis)
    by_scan, same = shrink_loss(net, made._replace(y=second), seeds(count), basis)
    assert torch.equal(image, same)
    mean = float((made.noise[:1] * basis.multiplicity()).sum() / basis.multiplicity().sum())
    truth = (image - x).square().flatten(1).mean(1) / mean
    for found in (by_stein, by_scan):
        off = found - truth
        assert abs(float(off.mean())) < 4 * float(off.std()) / count**0.5
        assert float(off.std()) / count**0.5 < 0.02 * float(truth.mean())


def test_the_wavelet_network_alone_is_trained_by_the_same_loss_and_nothing_else():
    denoiser = joint_denoiser()
    made, *_ = noisy_images(denoiser, 4)
    found = shrink_alone(denoiser, made, seeds(4), "unit", 0.1)
    assert torch.equal(found.total, shrink_loss(denoiser.net.shrink, made, seeds(4), denoiser.process.basis)[0])
    found.total.mean().backward()
    reached = {name for name, p in denoiser.net.named_parameters() if p.grad is not None}
    assert reached == {name for name, _ in denoiser.net.named_parameters() if name.startswith("shrink.")}
    with pytest.raises(InputError, match="a JointNet"):
        shrink_alone(white_denoiser(1.0, 16), made, seeds(4), "unit", 0.1)


def test_feedback_waits_and_a_training_goes_on_where_it_stopped(tmp_path):
    """`after` counts steps of the loop; a run that is resumed has the same bits."""
    scheme = JointScheme(LAW, feedback=2.0, after=2, share=1.0)
    assert isinstance(scheme, Stepped)
    assert scheme.at_step(1).feedback == 0.0
    assert scheme.at_step(2) is scheme
    options = dict(batch=3, warmup=1, checkpoint_every=1, ema=0.5)

    def batch(keys):
        return noisy_images(joint_denoiser(), len(keys), seed=keys[0] % 2**31)[0]

    def run(name, steps, objective):
        return train(
            joint_denoiser(), batch, TrainingOptions(steps=steps, **options), tmp_path / name, objective=objective
        )

    whole = run("whole", 4, scheme)
    early = JointScheme(LAW, feedback=0.0)
    assert not all(torch.equal(a, b) for a, b in zip(whole.values(), run("none", 4, early).values(), strict=True))
    seen = []

    def stops(*given):
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return scheme.at_step(len(seen) - 1)(*given)

    with pytest.raises(KeyboardInterrupt):
        run("cut", 4, stops)
    again = run("cut", 4, scheme)
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), again.values(), strict=True))


def test_what_the_joint_scheme_cannot_train_is_refused():
    denoiser = joint_denoiser()
    made, *_ = noisy_images(denoiser, 2)
    scheme = JointScheme(LAW)
    with pytest.raises(InputError, match="images of unknown noise"):
        scheme(denoiser, made.x0, seeds(2), "unit", 0.1)
    with pytest.raises(InputError, match="a JointNet"):
        scheme(white_denoiser(1.0, 16), made, seeds(2), "unit", 0.1)
    for wrong in ({"feedback": -1.0}, {"after": -1}, {"share": 0.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            JointScheme(LAW, **wrong)
    with pytest.raises(InputError, match=r"JointNet\.score"):
        joint_denoiser(score="cascade")
