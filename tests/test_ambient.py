"""Training on noisy images alone: the identities in closed form, the bias of the published scheme, and a whole run."""

from __future__ import annotations

import pytest
import torch

from retrodict import ClockLaw, InputError
from retrodict._random import key
from retrodict.bases import Fourier, Pixel
from retrodict.bases.spectrum import Spectrum
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.denoisers.network import NetDenoiser
from retrodict.processes.clocks import at_rest
from retrodict.processes.fourier import fourier
from retrodict.training.ambient import (
    Ambient,
    ambient_mean,
    compared,
    own_error,
    posterior_draw,
    pseudo_clean,
    two_looks,
)
from retrodict.training.calibrate_law import calibrate_over_law
from retrodict.training.losses import Example, denoising_loss

F64 = torch.float64
LAW = ClockLaw(noise=(0.5, 3.0))


def seeds(count, stream="test"):
    return torch.tensor([key(0, stream, k) for k in range(count)])


def normal(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def components(basis, count):
    """Means and spectra of real images, `(count, *K)`."""
    f = basis.radius()
    spectra = torch.stack([0.2 + (k + 1) * torch.exp(-f * (1 + k)) for k in range(count)])
    return basis.forward(1.5 * normal(count, *basis.size)), spectra


def colored(basis):
    """Noise variances that rise with |f|, and what is added to them, `(1, 1, *K)`."""
    f = basis.radius()
    return (0.2 + 3 * f)[None, None], (0.05 + (f - 0.3) ** 2)[None, None]


class Scalars(torch.nn.Module):
    """N = a (noise estimate), log-ratios constant: enough to turn one Wiener filter of white data into another."""

    stride, receptive_field = 1, 1

    def __init__(self, bands=0):
        super().__init__()
        self.a, self.log = torch.nn.Parameter(torch.zeros(())), torch.nn.Parameter(torch.zeros(bands))
        self.bands = bands

    def forward(self, x, level):
        ratios = self.log[None, :, None, None].expand(len(x), self.bands, *x.shape[2:])
        return torch.cat([self.a * x[:, 1:2], ratios], 1)


def white_denoiser(variance, bands=0, size=8):
    process = fourier(Fourier((size, size)))
    return NetDenoiser(Scalars(bands), process, spectrum=Spectrum.flat(0.0, variance), level="clock", bands=bands)


# ---- identities ------------------------------------------------------------------------------------------------------


def test_two_looks_have_independent_noise_of_the_variance_that_is_said():
    """Gains of (n, z) in the state and in the target: orthogonal, with squares r and N + N^2 / e."""
    basis = Fourier((6, 8))
    noise, added = colored(basis)
    n = basis.inverse(noise.sqrt() * basis.forward(normal(1, 1, 6, 8)))
    z, nothing = normal(1, 1, 6, 8, seed=1), torch.zeros(1, 1, 6, 8, dtype=F64)
    of_n, of_z = two_looks(n, noise, added, nothing, basis), two_looks(nothing, noise, added, z, basis)
    own, white = basis.forward(n) / noise.sqrt(), basis.forward(z)
    gains = [(basis.forward(a) / own, basis.forward(b) / white) for a, b in zip(of_n[:2], of_z[:2], strict=True)]
    (a, b), (c, d) = gains
    assert torch.allclose(a * c + b * d, torch.zeros_like(a), atol=1e-12)
    assert torch.allclose((a**2 + b**2).real, of_n.clock, atol=1e-12)
    assert torch.allclose((c**2 + d**2).real, of_n.variance, rtol=1e-12)
    assert torch.equal(of_n.clock, noise + added)


@pytest.mark.parametrize("basis", [Pixel((5,)), Fourier((6, 8))], ids=["pixel", "fourier"])
def test_the_ambient_identity_is_exact_on_a_mixture_with_colored_noise(basis):
    """E[x_0 | w] from E[y | w]: y has the law of a mixture whose spectra are wider by N.  One component: Gaussian."""
    noise, added = colored(basis)
    means, spectra = components(basis, 3)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    state = normal(4, 1, *basis.size, seed=2) * 2
    for count in (1, 3):
        share = weights[:count] / weights[:count].sum()
        clean = MixtureLaw(basis, share, means[:count], spectra[:count])
        noisy = MixtureLaw(basis, share, means[:count], spectra[:count] + noise[0, 0])
        clock = noise + added
        t = torch.ones(4, dtype=F64)
        wanted = MixtureDenoiser(at_rest(basis, clock), clean).estimate(state, t).mean
        given = MixtureDenoiser(at_rest(basis, added), noisy).estimate(state, t).mean
        found = ambient_mean(basis.forward(given), basis.forward(state), noise, clock)
        assert torch.allclose(basis.inverse(found), wanted, atol=1e-12)
    with pytest.raises(InputError, match="more noise than they have"):
        ambient_mean(found, found, noise, noise)


def test_the_estimate_of_the_error_at_the_own_noise_is_that_to_the_truth():
    """Mixture data, colored noise, a denoiser that is right and one that is not: Stein's estimate within 4 errors."""
    basis = Fourier((8, 8))
    noise = colored(basis)[0]
    means, spectra = components(basis, 2)
    law = MixtureLaw(basis, torch.tensor([0.4, 0.6], dtype=F64), means, spectra)
    count = 1000
    which = (torch.arange(count) % 5 >= 2).long()  # 0 for two in five
    spread = spectra[which][:, None].sqrt() * basis.forward(normal(count, 1, 8, 8, seed=3))
    x = basis.inverse(means[which][:, None] + spread)
    y = x + basis.inverse(noise.sqrt() * basis.forward(normal(count, 1, 8, 8, seed=4)))
    exact = MixtureDenoiser(at_rest(basis, noise), law)
    for scale in (1.0, 0.6):

        def denoise(image, scale=scale):
            return scale * exact.estimate(image, torch.ones(len(image), dtype=F64)).mean

        mean, found = own_error(denoise, y, noise, normal(count, 1, 8, 8, seed=5), basis)
        truth = basis.energy(basis.forward(mean - x))
        off = ((found - truth) * basis.multiplicity()).flatten(1).sum(1)
        assert abs(float(off.mean())) < 4 * float(off.std()) / count**0.5
        assert float(off.std()) / count**0.5 < 0.06 * float((truth * basis.multiplicity()).flatten(1).sum(1).mean())


# ---- bias of the published scheme ------------------------------------------------------------------------------------


@pytest.mark.parametrize("s2", [0.25, 1.0, 4.0])
def test_images_to_train_on_are_too_narrow_in_the_published_scheme_and_right_in_ours(s2):
    """v = 1: D(y) = g y has variance g^2 (v + s2) = v^2 / (v + s2); a draw has g^2 (v + s2) + v s2 / (v + s2) = v."""
    v, size = 1.0, 64
    denoiser = white_denoiser(v, bands=2, size=size)
    noise = torch.full((1, 1, *denoiser.process.basis.shape), s2, dtype=F64)
    bound = denoiser.at(at_rest(denoiser.process.basis, noise))
    y = (v + s2) ** 0.5 * normal(12, 1, size, size)
    narrow = pseudo_clean(bound, y, seeds(12), "paper")
    assert torch.allclose(narrow, v / (v + s2) * y, atol=1e-12)
    assert float(narrow.var() / y.var() * (v + s2)) == pytest.approx(v**2 / (v + s2), rel=1e-10)
    nothing = torch.zeros_like(y)
    drawn = pseudo_clean(bound, nothing, seeds(12)).var()  # the part of a draw that is not D(y)
    right = float(narrow.var() / y.var() * (v + s2) + drawn)
    assert right == pytest.approx(v, rel=4 * (2 / y.numel()) ** 0.5)
    assert torch.equal(pseudo_clean(bound, y, seeds(12))[3:5], pseudo_clean(bound, y[3:5], seeds(12)[3:5]))
    with pytest.raises(InputError, match="without a law of its error"):
        pseudo_clean(bound.with_spread("none"), y, seeds(12))


@pytest.mark.parametrize("parts", [(), (0.25, 0.06), (0.7, 0.3, 0.01)])
def test_a_draw_by_parts_of_the_noise_has_the_law_of_the_posterior(parts):
    """v = 1: g = v/(v + s2) of y is left on average, and v s2/(v + s2) is the variance around it."""
    v, s2, size = 1.0, 2.0, 64
    denoiser = white_denoiser(v, bands=2, size=size)
    noise = torch.full((12, 1, *denoiser.process.basis.shape), s2, dtype=F64)
    y = (v + s2) ** 0.5 * normal(12, 1, size, size)
    drawn, nothing = (posterior_draw(denoiser, x, noise, seeds(12), parts) for x in (y, torch.zeros_like(y)))
    assert torch.allclose(drawn - nothing, v / (v + s2) * y, atol=1e-10)  # the same draws: what is left of y alone
    assert float(nothing.var()) == pytest.approx(v * s2 / (v + s2), rel=4 * (2 / y.numel()) ** 0.5)
    alone = posterior_draw(denoiser, y[3:5], noise[3:5], seeds(12)[3:5], parts)
    assert torch.allclose(drawn[3:5], alone, atol=1e-12)


def trained_gain(denoiser, loss, clock):
    """Gain at a white clock where `loss(denoiser)`, a parabola in the one weight, has its minimum."""
    values = []
    for a in (-1.0, 0.0, 1.0):
        with torch.no_grad():
            denoiser.net.module.a.fill_(a)
            values.append(float(loss(denoiser).total.double().mean()))
    low, middle, high = values
    with torch.no_grad():
        denoiser.net.module.a.fill_(0.5 * (low - high) / (low - 2 * middle + high))
        bound = denoiser.at(at_rest(denoiser.process.basis, torch.full((1, 1, *denoiser.process.basis.shape), clock)))
        y = torch.ones(1, 1, *denoiser.process.basis.size, dtype=F64)
        return float(bound.estimate(y, torch.ones(1, dtype=F64)).mean.mean())


@pytest.mark.parametrize("s2", [0.5, 2.0])
def test_training_on_noisy_images_finds_the_filter_of_clean_ones_and_the_published_scheme_a_narrower_one(s2):
    """White data v = 1 from the filter of the noisy law: above and at N the gain is v / (v + r).  Below it the images
    D(y) give u / (u + r), u = v^2 / (v + N), and draws of the posterior v / (v + r).
    """
    noisy, right = white_denoiser(1 + s2, size=32), white_denoiser(1.0, bands=2, size=32)
    basis = noisy.process.basis
    noise = torch.full((48, 1, *basis.shape), s2, dtype=F64)
    y = (1 + s2) ** 0.5 * normal(48, 1, 32, 32, seed=1)
    added = torch.full_like(noise, 1.5 * s2)
    looks = two_looks(y, noise, added, normal(48, 1, 32, 32, seed=2), basis)

    def above(denoiser):
        bound = denoiser.at(at_rest(basis, looks.clock))
        return compared(bound, looks.state, looks.target, looks.variance, 0.0)

    tolerance = 4 * (2 / y.numel()) ** 0.5 * 3  # errors of the target are up to three times those of clean images
    assert trained_gain(noisy, above, 2.5 * s2) == pytest.approx(1 / (1 + 2.5 * s2), abs=tolerance)
    mean = right.at(at_rest(basis, noise))(y, torch.ones(48, dtype=F64))

    def tower(denoiser):
        bound = denoiser.at(at_rest(basis, looks.clock))
        known = (torch.ones(48, dtype=torch.bool), mean)
        return compared(bound, looks.state, looks.target, looks.variance, 0.0, known)

    assert trained_gain(noisy, tower, 2.5 * s2) == pytest.approx(1 / (1 + 2.5 * s2), abs=tolerance / 6)
    objective = Ambient(LAW, own=1.0, below=0.0)
    own = lambda d: objective(d, Example(y, noise=noise), seeds(48), "unit", 0.0)  # noqa: E731
    assert trained_gain(noisy, own, s2) == pytest.approx(1 / (1 + s2), abs=tolerance)
    low, bound = 0.3 * s2, right.at(at_rest(basis, noise))
    for style, u in (("paper", 1 / (1 + s2)), ("ambient", 1.0)):
        torch.nn.init.zeros_(right.net.module.a)
        clean = pseudo_clean(bound, y, seeds(48), style)
        law = lambda b, _: at_rest(b, torch.full((48, 1, *b.shape), low, dtype=F64))  # noqa: E731
        below = lambda d: denoising_loss(d, clean, seeds(48, "low"), "unit", 0.0, law=law)  # noqa: E731, B023
        assert trained_gain(right, below, low) == pytest.approx(u / (u + low), abs=tolerance)


# ---- the objective ---------------------------------------------------------------------------------------------------


def gaussian_images(denoiser, noise, count, seed=0):
    """Images of the spectrum of a denoiser with noise."""
    basis = denoiser.process.basis
    x = denoiser.spectrum.on(basis).sqrt() * basis.forward(normal(count, 1, *basis.size, seed=seed))
    return basis.inverse(x + noise.sqrt() * basis.forward(normal(count, 1, *basis.size, seed=seed + 1)))


def power_denoiser(bands=2, size=32):
    spectrum = Spectrum.power_law(0.0, 4.0, 0.1, 2.5)
    return NetDenoiser(Scalars(bands), fourier(Fourier((size, size))), spectrum=spectrum, level="clock", bands=bands)


def test_the_spread_is_trained_on_what_noise_leaves_of_the_error():
    """The Wiener filter of Gaussian data: the likelihood is least where the predicted ratio is 1, band by band."""
    denoiser = power_denoiser()
    basis = denoiser.process.basis
    noise, added = (0.1 * x.expand(48, 1, *basis.shape) for x in colored(basis))
    y = gaussian_images(denoiser, noise, 48)
    looks = two_looks(y, noise, added, normal(48, 1, 32, 32, seed=9), basis)
    bound, at = denoiser.at(at_rest(basis, looks.clock)), denoiser.net.module.log
    for band in range(2):
        values = []
        for shift in (-0.4, 0.0, 0.4):
            with torch.no_grad():
                at.zero_()
                at[band] = shift
                values.append(float(compared(bound, looks.state, looks.target, looks.variance, 1.0).spread.mean()))
        low, middle, high = values
        assert abs(0.5 * 0.4 * (low - high) / (low - 2 * middle + high)) < 0.12
        assert middle < min(low, high)


def test_items_of_a_batch_do_not_see_each_other_and_their_kinds_are_drawn_by_seed():
    denoiser = power_denoiser(size=16)
    basis = denoiser.process.basis
    noise = colored(basis)[0].expand(12, 1, *basis.shape)
    made = Example(gaussian_images(denoiser, noise, 12), noise=noise)
    for style in ("ambient", "paper"):
        objective = Ambient(LAW, style)
        whole = objective(denoiser, made, seeds(12), "unit", 0.1)
        part = objective(denoiser, Example(made.x0[3:7], noise=noise[3:7]), seeds(12)[3:7], "unit", 0.1)
        for a, b in zip(whole, part, strict=True):
            assert torch.allclose(a[3:7], b, rtol=1e-5, atol=1e-7)
        whole.total.mean().backward()
        assert bool(denoiser.net.module.a.grad.isfinite())
    second = made._replace(y=gaussian_images(denoiser, noise, 12, seed=50))
    pairs = Ambient(LAW, own=1.0, below=0.0)(denoiser, second, seeds(12), "unit", 0.1)
    assert bool(pairs.spread.ne(0).all())  # a second scan tells the spread as well
    clocks = Ambient(LAW).lower(basis, seeds(200), noise[:1].expand(200, 1, *basis.shape))
    assert bool((clocks < noise[:1]).flatten(1).any(1).all())


def test_what_cannot_be_trained_is_refused():
    denoiser, y = white_denoiser(1.0), normal(2, 1, 8, 8)
    noise = torch.ones(2, 1, *denoiser.process.basis.shape, dtype=F64)
    with pytest.raises(InputError, match="images of unknown noise"):
        Ambient(LAW)(denoiser, y, seeds(2), "unit", 0.1)
    with pytest.raises(InputError, match="'unit'"):
        Ambient(LAW)(denoiser, Example(y, noise=noise), seeds(2), "eps", 0.1)
    with pytest.raises(InputError, match="shares that sum"):
        Ambient(LAW, own=0.8, below=0.4)
    with pytest.raises(InputError, match="papers"):
        Ambient(LAW, "papers")
    with pytest.raises(InputError, match="tower"):
        Ambient(LAW, tower=1.5)
    with pytest.raises(InputError, match="noise of their own"):
        denoising_loss(denoiser, Example(y, noise=noise), seeds(2))


def test_factors_without_truth_are_one_where_the_network_is_right_and_found_where_it_is_not():
    """The Wiener filter of Gaussian data in colored noise; then the predicted variances are off by 4 and 1/4."""
    denoiser = power_denoiser(bands=2)
    basis = denoiser.process.basis

    def batch(keys):
        noise = 0.1 * colored(basis)[0].expand(len(keys), 1, *basis.shape)
        return Example(gaussian_images(denoiser, noise, len(keys), seed=keys[0] % 2**31), noise=noise)

    right = calibrate_over_law(denoiser, batch, LAW, levels=2, items=128)
    assert torch.allclose(torch.tensor(right.factor), torch.ones(2, 2), atol=0.15)
    with torch.no_grad():
        denoiser.net.module.log.copy_(torch.tensor([0.25, 4.0]).log())
    wrong = calibrate_over_law(denoiser, batch, LAW, levels=2, items=128)
    assert wrong.factor[0] == pytest.approx((4.0, 0.25), rel=0.3)
