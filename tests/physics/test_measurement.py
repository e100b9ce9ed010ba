"""A measurement against dense matrices: residual, likelihood, misfit, and the posterior of a Gaussian image."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from physics_cases import matrix, noise
from retrodict import InputError, Spectrum
from retrodict.bases import Fourier
from retrodict.bases.solve import conjugate_gradients
from retrodict.physics import (
    Affine,
    Blur,
    CartesianMRI,
    Covariance,
    GaussianNoise,
    Identity,
    LogPoissonNoise,
    Mask,
    Measurement,
    ParallelBeam,
    PoissonNoise,
    Radon,
    TransmissionNoise,
    birdcage,
    emission,
    even_angles,
    inner,
    random_mask,
    sampling,
)
from retrodict.physics.noise import noise_like

SIZE = (6, 7)


def prior(size=SIZE, complex=False):
    basis = Fourier(size, complex=complex)
    return Covariance(0.05 + 1 / (1 + (basis.radius() / 0.15) ** 2), basis)


def radon(views=5):
    return Radon(SIZE, ParallelBeam(even_angles(views), 10, 1.0))


def mri(coils=1):
    mask = sampling("random", (6, 8), 2, center=0.25)
    return CartesianMRI(mask, maps=birdcage((6, 8), coils) if coils > 1 else None)


def uneven(shape):
    return GaussianNoise.per_pixel(0.2 + noise(*shape).abs())


PROBLEMS = {
    "radon, white": (radon(), GaussianNoise.white(0.3), prior()),
    "radon, per ray": (radon(), uneven((1, 5, 10)), prior()),
    "radon, white image": (radon(), GaussianNoise.white(0.3), Covariance(0.7)),
    "radon, some pixels known": (radon(), GaussianNoise.white(0.3), Covariance((noise(*SIZE).abs() > 0.5).double())),
    "affine radon": (Affine(radon(), noise(1, 5, 10)), uneven((1, 5, 10)), prior()),
    "masked fourier": (mri(), GaussianNoise.white(0.2), prior((6, 8), True)),
    "coils": (mri(3), GaussianNoise.white(0.2), prior((6, 8), True)),
    "correlated coils": (
        mri(2),
        GaussianNoise.coils(torch.tensor([[1.0, 0.4j], [-0.4j, 0.8]], dtype=torch.complex128)),
        prior((6, 8), True),
    ),
    "blur, white": (Blur.gaussian(SIZE, 2.5), GaussianNoise.white(0.1), prior()),
    "blur, colored": (
        Blur.gaussian(SIZE, 2.5),
        GaussianNoise.stationary(Fourier(SIZE), 0.01 + Fourier(SIZE).radius()),
        prior(),
    ),
    "blur, per pixel": (Blur.gaussian(SIZE, 2.5), uneven((1, *SIZE)), prior()),
    "inpainting": (Mask(random_mask(SIZE, 0.5)), GaussianNoise.white(0.2), prior()),
    "inpainting of white": (Mask(random_mask(SIZE, 0.5)), uneven((1, *SIZE)), Covariance(noise(1, *SIZE) ** 2)),
    "compact inpainting": (Mask(random_mask(SIZE, 0.5), compact=True), GaussianNoise.white(0.2), prior()),
    "denoising": (Identity(SIZE), GaussianNoise.white(0.2), prior()),
}
each = pytest.mark.parametrize("name", PROBLEMS)


def flat(x):
    return torch.view_as_real(x).flatten(1) if x.is_complex() else x.flatten(1)


def dense(covariance, space):
    unit = torch.eye(space.count, dtype=torch.float64)
    shaped = (
        torch.view_as_complex(unit.reshape(-1, *space.shape, 2)) if space.complex else unit.reshape(-1, *space.shape)
    )
    return flat(covariance.power(shaped, 1.0)).T


def measured(name, count=2):
    operator, law, covariance = PROBLEMS[name]
    x = torch.cat([operator.domain.white(5, "image", i) for i in range(count)])
    return Measurement.simulate(operator, law, covariance.power(x, 0.5), range(count)), covariance


def rows(measurement):
    """Dense A, Sigma and y over what was measured."""
    space = measurement.operator.range
    mask = torch.ones(space.shape) if measurement.mask is None else measurement.mask
    seen = (mask[..., None].expand(*mask.shape, 2) if space.complex else mask).flatten() > 0
    sigma = dense(measurement.noise.covariance, space)
    return matrix(measurement.operator)[seen], sigma[seen][:, seen], seen


def kalman(measurement, covariance, mean):
    """The posterior mean and covariance by dense matrices."""
    a, sigma, seen = rows(measurement)
    c = dense(covariance, measurement.operator.domain)
    gain = c @ a.T @ torch.linalg.inv(a @ c @ a.T + sigma)
    rest = flat(measurement.y - measurement.operator.forward(mean))[:, seen]
    return flat(mean) + rest @ gain.T, c - gain @ a @ c, gain


@each
def test_the_posterior_mean_is_that_of_dense_matrices(name):
    measurement, covariance = measured(name)
    mean = torch.cat([measurement.operator.domain.white(8, "mean", i) for i in range(2)])
    found = measurement.posterior_mean(mean, covariance, tolerance=1e-12)
    exact, _, _ = kalman(measurement, covariance, mean)
    assert float((flat(found.x) - exact).abs().max()) < 1e-8
    closed = {"masked fourier", "blur, white", "blur, colored", "inpainting of white", "denoising"}
    assert (found.method == "closed form") == (name in closed)


@each
def test_a_draw_is_the_linear_map_of_its_noise(name):
    """Perturb and solve with the same noise in dense matrices; its law is then the posterior's by algebra."""
    measurement, covariance = measured(name, 1)
    zero = torch.zeros_like(measurement.operator.domain.white(0, "zero"))
    found = measurement.posterior_sample(0.0, covariance, [11, 12], tolerance=1e-12)
    a, sigma, seen = rows(measurement)
    _, v, gain = kalman(measurement, covariance, zero)
    for i, seed in enumerate((11, 12)):
        image = covariance.power(noise_like(zero, [seed], "posterior-image"), 0.5)
        shift = measurement.noise.covariance.power(noise_like(measurement.y, [seed], "posterior-noise"), 0.5)
        rest = flat(measurement.y + shift - measurement.operator.forward(image))[:, seen]
        assert torch.allclose(flat(found.x[i : i + 1]), flat(image) + rest @ gain.T, atol=1e-8)
    c = dense(covariance, measurement.operator.domain)
    free = torch.eye(len(c), dtype=torch.float64) - gain @ a
    assert torch.allclose(free @ c @ free.T + gain @ sigma @ gain.T, v, atol=1e-10)
    assert torch.equal(measurement.posterior_sample(0.0, covariance, [12], tolerance=1e-12).x, found.x[1:])


def test_draws_have_the_variance_of_the_posterior():
    measurement, covariance = measured("blur, white", 1)
    draws = flat(measurement.posterior_sample(0.0, covariance, range(1000)).x)
    mean, v, _ = kalman(measurement, covariance, torch.zeros(1, 1, *SIZE, dtype=torch.float64))
    sd = v.diagonal().sqrt()
    z = (draws - mean) / sd
    assert float(z.mean(0).abs().max()) < 5 / math.sqrt(1000)
    found = z.T @ z / 1000
    assert float((found - v / sd / sd[:, None]).abs().max()) < 7 / math.sqrt(1000)


@each
def test_guidance_is_the_gradient_of_the_evidence(name):
    measurement, covariance = measured(name, 1)
    mean = measurement.operator.domain.white(8, "mean")
    a, sigma, seen = rows(measurement)
    c = dense(covariance, measurement.operator.domain)
    rest = flat(measurement.y - measurement.operator.forward(mean))[:, seen]
    exact = rest @ torch.linalg.inv(a @ c @ a.T + sigma) @ a
    found = measurement.guidance(mean, covariance, tolerance=1e-12)
    assert torch.allclose(flat(found), exact, atol=1e-7)


@each
def test_the_likelihood_is_that_of_scipy_and_its_gradient_autograd(name):
    measurement, _ = measured(name, 1)
    x = measurement.operator.domain.white(8, "mean").requires_grad_()
    measurement.log_likelihood(x).sum().backward()
    assert torch.allclose(measurement.gradient(x.detach()), x.grad, atol=1e-9)
    _, sigma, seen = rows(measurement)
    gap = flat(measurement.residual(x.detach()))[0, seen]
    law = stats.multivariate_normal(torch.zeros_like(gap).numpy(), sigma.numpy())
    assert float(measurement.log_likelihood(x.detach())) == pytest.approx(law.logpdf(gap.numpy()), rel=1e-9)
    assert measurement.count == int(seen.sum()) == float(measurement.misfit(x.detach()).mean)
    operator, data = measurement.whitened()
    gap = data - operator.forward(x.detach())
    assert float(inner(gap, gap)) == pytest.approx(float(measurement.misfit(x.detach()).value), rel=1e-10)


@pytest.mark.parametrize("name", ["masked fourier", "coils", "correlated coils", "inpainting", "inpainting of white"])
def test_what_was_not_measured_counts_nowhere(name):
    measurement, covariance = measured(name, 1)
    law = measurement.noise
    y = torch.where(measurement.mask > 0, measurement.y, math.nan)
    broken = Measurement(measurement.operator, y, law)
    x = measurement.operator.domain.white(8, "x")
    assert torch.equal(broken.residual(x), measurement.residual(x))
    assert float(broken.residual(x)[:, measurement.mask == 0].abs().max()) == 0.0
    assert torch.equal(broken.relative_residual(x), measurement.relative_residual(x))
    assert torch.allclose(broken.posterior_mean(0.0, covariance).x, measurement.posterior_mean(0.0, covariance).x)
    draws = [m.posterior_sample(0.0, covariance, [3]).x for m in (broken, measurement)]
    assert torch.allclose(*draws)
    if law.covariance.elementwise:
        assert torch.equal(broken.log_likelihood(x), measurement.log_likelihood(x))
        assert torch.equal(broken.gradient(x), measurement.gradient(x))


def test_misfits_of_truth_mean_and_draw_follow_their_laws():
    """Of true image and draws m on average; of the posterior mean less, by a closed form."""
    operator, law, covariance = PROBLEMS["blur, white"]
    count = 400
    z = torch.cat([operator.domain.white(5, "image", i) for i in range(count)])
    x = covariance.power(z, 0.5)
    measurement = Measurement.simulate(operator, law, x, range(count))
    bound = 5 * math.sqrt(2 / (measurement.count * count))
    assert float(measurement.misfit(x).ratio.mean()) == pytest.approx(1, abs=bound)
    draw = measurement.posterior_sample(0.0, covariance, range(1000, 1000 + count)).x
    assert float(measurement.misfit(draw).ratio.mean()) == pytest.approx(1, abs=bound)
    mean = measurement.posterior_mean(0.0, covariance).x
    expected = measurement.expected_misfit(covariance)
    assert expected < 0.8 * measurement.count
    assert float(measurement.misfit(mean).value.mean()) == pytest.approx(expected, abs=bound * measurement.count)
    assert stats.kstest(measurement.misfit(x).above.numpy(), "uniform").pvalue > 1e-3
    assert PROBLEMS["radon, white"][0] is not None
    assert measured("radon, white")[0].expected_misfit(prior()) is None


def test_the_error_estimate_is_one():
    """Stopped early, the estimate is within a factor of five of the true error in the norm of the system."""
    measurement, covariance = measured("radon, per ray", 1)
    exact = measurement.posterior_mean(0.0, covariance, tolerance=1e-14)
    norm = dense(covariance, measurement.operator.domain)
    system = torch.linalg.inv(norm) + matrix(measurement.operator).T @ torch.diag(
        1 / rows(measurement)[1].diagonal()
    ) @ matrix(measurement.operator)
    for rounds in (6, 9, 12):
        found = measurement.posterior_mean(0.0, covariance, rounds=rounds)
        gap, whole = flat(found.x - exact.x)[0], flat(exact.x)[0]
        true = math.sqrt(float(gap @ system @ gap) / float(whole @ system @ whole))
        assert true <= float(found.error[0]) < 100 * true
        assert int(found.rounds[0]) == rounds
    assert float(exact.left[0]) <= 1e-14


def test_the_preconditioner_saves_rounds(monkeypatch):
    from retrodict.physics import conditional

    operator = Radon((24, 24), ParallelBeam(even_angles(20), 36, 1.0))
    basis = Fourier((24, 24))
    covariance = Covariance(1e-3 + 1 / (1 + (basis.radius() / 0.05) ** 2), basis)
    x = covariance.power(operator.domain.white(1, "x"), 0.5)
    measurement = Measurement.simulate(operator, GaussianNoise.white(1.0), x, [1])
    quick = measurement.posterior_mean(0.0, covariance, tolerance=1e-8)
    monkeypatch.setattr(conditional, "_preconditioner", lambda *_: lambda x: x)
    slow = measurement.posterior_mean(0.0, covariance, tolerance=1e-8)
    assert torch.allclose(quick.x, slow.x, atol=1e-5)
    assert int(quick.rounds[0]) < 0.8 * int(slow.rounds[0])


def test_conjugate_gradients_refresh_and_estimate():
    a = noise(12, 12)
    a = a @ a.T + torch.eye(12, dtype=torch.float64)
    rest = noise(12)
    for refresh in (0, 3):
        found = conjugate_gradients(lambda x: a @ x, lambda x: x, rest, 1e-12, refresh=refresh)
        assert torch.allclose(found.x, torch.linalg.solve(a, rest))
        assert found.error < 0.1


# ---- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [TransmissionNoise(1e5), LogPoissonNoise(1e5, electronic=3.0)])
def test_low_dose_is_solved_by_the_gaussian_that_stands_for_it(law):
    operator = radon(12)
    x = 0.05 + 0.01 * operator.domain.white(3, "x").abs()
    measurement = Measurement.simulate(operator, law, x, [4], mask=None)
    assert float(measurement.misfit(x).above[0]) > 1e-3
    found = measurement.posterior_mean(0.05, Covariance(0.02**2)).x
    start = torch.full_like(x, 0.05)
    for _ in range(20):  # Newton's method on the true law and the same image law
        u = operator.forward(start)
        weight = law.transmission if isinstance(law, LogPoissonNoise) else law
        information = weight.through(u) ** 2 / weight.variance(u)
        hessian = matrix(operator).T @ torch.diag(information.flatten()) @ matrix(operator)
        hessian = hessian + torch.eye(len(hessian), dtype=torch.float64) / 0.02**2
        slope = flat(measurement.gradient(start))[0] - flat(start - 0.05)[0] / 0.02**2
        start = start + torch.linalg.solve(hessian, slope).reshape(start.shape)
    assert float((found - start).abs().max()) < 0.1 * float((found - x).abs().max())


def test_emission_counts_have_their_unit():
    operator = emission(
        Radon(SIZE, ParallelBeam(even_angles(5), 10, 1.0), unit="kBq/mL"), sensitivity=20.0, randoms=3.0
    )
    x = operator.domain.white(1, "x").abs()
    measurement = Measurement.simulate(operator, PoissonNoise(unit="counts"), x, [1])
    assert float(measurement.misfit(x).ratio[0]) == pytest.approx(1, abs=5 * math.sqrt(2.2 / 50))
    with pytest.raises(InputError, match="as of Affine"):
        Measurement(operator, measurement.y, GaussianNoise.white(1.0, unit="HU"))


# ---- records and bad input -------------------------------------------------------------------------------------------


def test_one_measurement_is_compared_with_many_images():
    measurement, covariance = measured("radon, white", 1)
    x = covariance.power(torch.cat([measurement.operator.domain.white(2, "x", i) for i in range(3)]), 0.5)
    assert torch.allclose(measurement.log_likelihood(x)[2:], measurement.log_likelihood(x[2:]))
    assert measurement.residual(x).shape == (3, 1, 5, 10)


def test_items_with_deviations_of_their_own():
    operator = radon()
    sigma = torch.stack([0.1 + noise(1, 5, 10).abs(), 0.3 + noise(1, 5, 10, seed=2).abs()])
    x = torch.cat([operator.domain.white(2, "x", i) for i in range(2)])
    measurement = Measurement.simulate(operator, GaussianNoise.per_pixel(sigma), x, [1, 2])
    found = measurement.posterior_mean(0.0, prior(), tolerance=1e-12)
    for i in range(2):
        alone = Measurement(operator, measurement.y[i : i + 1], GaussianNoise.per_pixel(sigma[i]))
        exact, _, _ = kalman(alone, prior(), torch.zeros(1, 1, *SIZE, dtype=torch.float64))
        assert torch.allclose(flat(found.x[i : i + 1]), exact, atol=1e-8)


def test_a_spectrum_is_a_prior():
    basis = Fourier(SIZE)
    spectrum = Spectrum.power_law(0.0, 2.0, 0.1, 2.0)
    assert torch.equal(Covariance.of_spectrum(spectrum, basis).variance, spectrum.on(basis))


def test_single_precision_stays_single():
    measurement, covariance = measured("radon, per ray", 1)
    single = Measurement(measurement.operator, measurement.y.float(), measurement.noise)
    found = single.posterior_mean(0.0, covariance)
    assert found.x.dtype == torch.float32
    assert torch.allclose(found.x.double(), measurement.posterior_mean(0.0, covariance).x, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda a, y: Measurement(a, y[:, :, :4]), "a tensor of shape"),
        (lambda a, y: Measurement(a, torch.complex(y, y)), "complex values"),
        (lambda a, y: Measurement(a, y * math.nan), "NaN or infinity"),
        (lambda a, y: Measurement(a, y, unit="counts"), "'1', as of Radon"),
        (lambda a, y: Measurement(a, y, GaussianNoise.white(1.0, "HU")), "unit of the data"),
        (lambda a, y: Measurement(a, y, GaussianNoise.per_pixel(torch.ones(3, 3))), "variances"),
        (lambda a, y: Measurement(a, y, PoissonNoise(unit="counts")), "noise unit"),
        (lambda a, y: Measurement(a, y, mask=torch.ones(5, 10)), "0 and 1 of the shape"),
        (lambda a, y: Measurement(a, y, mask=torch.zeros(1, 5, 10)), "nothing measured"),
        (lambda a, y: Measurement(a, y).misfit(torch.zeros(1, 1, *SIZE, dtype=torch.float64)), "a law, such as"),
        (lambda a, y: Measurement(a, y, GaussianNoise.white(1.0)).posterior_mean(0.0, prior((5, 5))), "a basis"),
        (lambda a, y: Measurement(a, y, GaussianNoise.white(1.0)).posterior_mean(torch.zeros(3, 3), prior()), "mean"),
        (
            lambda a, y: Measurement(a, y.expand(2, -1, -1, -1), GaussianNoise.white(1.0)).posterior_sample(
                0.0, prior(), [1]
            ),
            "one for every item",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, said):
    with pytest.raises(InputError, match=said):
        make(radon(), noise(1, 1, 5, 10))


def test_samples_are_not_left_out_of_correlated_noise():
    law = GaussianNoise.stationary(Fourier(SIZE), 0.1 + Fourier(SIZE).radius())
    with pytest.raises(InputError, match="correlated"):
        Measurement(Mask(random_mask(SIZE, 0.5)), noise(1, 1, *SIZE), law)
