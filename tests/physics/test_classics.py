"""Classical reconstructions: the contract of the table, and the solution that each converges to."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from classics_cases import CASES, FAN, MICROSCOPE, PARALLEL, PET, RANDOM, SENSE, SIZE, gaussian, poisson, prior, steps
from physics_cases import matrix, noise
from retrodict import InputError, Spectrum
from retrodict.bases import Fourier
from retrodict.physics import (
    CLASSICS,
    Affine,
    Blur,
    CartesianMRI,
    Covariance,
    GaussianNoise,
    Identity,
    Mask,
    Measurement,
    ParallelBeam,
    PoissonNoise,
    Radon,
    birdcage,
    emission,
    even_angles,
    random_mask,
    sampling,
)
from retrodict.physics.classics import choose, g_factor
from retrodict.physics.classics.penalties import TotalVariation, WaveletPenalty
from retrodict.physics.subsets import some_views

ALL = [(name, i) for name, cases in CASES.items() for i in range(len(cases))]
each = pytest.mark.parametrize(("name", "case"), ALL)


def run(name, case, measurement=None, **more):
    make, options = CASES[name][case]
    return CLASSICS[name](make() if measurement is None else measurement, **{**options, **more})


def flat(x):
    return torch.view_as_real(x).flatten(1) if x.is_complex() else x.flatten(1)


def test_every_entry_of_the_table_has_a_case():
    assert set(CASES) == set(CLASSICS)


# ---- the contract ----------------------------------------------------------------------------------------------------


@each
def test_a_record_says_what_was_done(name, case):
    measurement = CASES[name][case][0]()
    before = measurement.y.clone()
    found = run(name, case, measurement)
    assert found.image.shape == (2, *measurement.operator.domain.shape)
    assert torch.equal(measurement.y, before)
    assert torch.allclose(found.misfit, measurement.misfit(found.image).ratio)
    assert torch.allclose(found.residual, measurement.relative_residual(found.image))
    assert len(found.stopped) == len(found.iterations) == 2
    assert set(found.stopped) <= {"closed form", "tolerance", "discrepancy", "iterations"}
    torch.manual_seed(3)
    assert torch.equal(run(name, case, measurement).image, found.image)


@each
def test_an_item_is_what_it_is_in_any_batch(name, case):
    measurement = CASES[name][case][0]()
    both = run(name, case, measurement).image
    alone = torch.cat([run(name, case, measurement.item(i)).image for i in range(2)])
    assert torch.allclose(both, alone, rtol=1e-12, atol=1e-12)


@each
def test_the_precision_is_that_of_the_data(name, case):
    measurement = CASES[name][case][0]()
    y = measurement.y.to(torch.complex64 if measurement.y.is_complex() else torch.float32)
    found = run(name, case, replace(measurement, y=y)).image
    exact = run(name, case, measurement).image
    assert found.dtype == y.dtype if exact.is_complex() == y.is_complex() else not found.is_complex()
    assert float((found - exact).abs().max()) < 2e-3 * float(exact.abs().max())


# ---- least squares ---------------------------------------------------------------------------------------------------

SQUARE = Radon((3, 3), ParallelBeam(even_angles(8), 6, 1.0))


def test_cgls_ends_in_the_least_squares_of_least_norm():
    for operator in (SQUARE, Radon((7, 7), ParallelBeam(even_angles(3), 9, 1.0))):
        y = noise(1, *operator.range.shape)
        sigma = 0.5 + noise(*operator.range.shape, seed=4).abs()
        weight = 1 / sigma.flatten()
        found = CLASSICS["cgls"](
            Measurement(operator, y, GaussianNoise.per_pixel(sigma)), iterations=500, tolerance=1e-13
        )
        exact = torch.linalg.pinv(weight[:, None] * matrix(operator), rtol=1e-10) @ (weight * y.flatten())
        assert torch.allclose(found.image.flatten(), exact, atol=1e-8)
        assert found.stopped == ("tolerance",)
    start = noise(1, *operator.domain.shape, seed=9)
    moved = CLASSICS["cgls"](Measurement(operator, y), iterations=500, tolerance=1e-13, start=start)
    a = matrix(operator)
    exact = start.flatten() + torch.linalg.pinv(a, rtol=1e-10) @ (y.flatten() - a @ start.flatten())
    assert torch.allclose(moved.image.flatten(), exact, atol=1e-8)


def test_sirt_ends_in_weighted_least_squares():
    """R^1/2 least squares, R the inverse row sums; one step is the one of the formula."""
    y = noise(1, *SQUARE.range.shape)
    a = matrix(SQUARE)
    rows = a.sum(1)
    r = torch.where(rows > 1e-9, 1 / rows.clamp_min(1e-9), 0.0)
    once = CLASSICS["sirt"](Measurement(SQUARE, y), iterations=1).image
    assert torch.allclose(once.flatten(), (a.T @ (r * y.flatten())) / a.sum(0), atol=1e-12)
    found = CLASSICS["sirt"](Measurement(SQUARE, y), iterations=300, relaxation=1.9)
    root = r.sqrt()
    exact = torch.linalg.lstsq(root[:, None] * a, root * y.flatten()).solution
    assert torch.allclose(found.image.flatten(), exact, atol=1e-3)
    bounded = CLASSICS["sirt"](Measurement(SQUARE, y), iterations=300, relaxation=1.9, nonnegative=True).image.flatten()
    slope = a.T @ (r * (a @ bounded - y.flatten()))
    assert float(bounded.min()) >= 0
    assert float(slope[bounded > 1e-9].abs().max()) < 1e-3
    assert float(slope.min()) > -1e-3


@pytest.mark.parametrize(
    ("name", "options"),
    [("sart", {"relaxation": 1.0}), ("os_sart", {"subsets": 4}), ("sirt", {"relaxation": 1.9, "iterations": 500})],
)
def test_consistent_data_are_solved(name, options):
    x = noise(1, 1, 3, 3)
    operator = Affine(SQUARE, noise(*SQUARE.range.shape, seed=3))
    measurement = Measurement(operator, operator.forward(x))
    found = CLASSICS[name](measurement, tolerance=1e-8, **{"iterations": 200, **options})
    assert torch.allclose(found.image, x, atol=1e-3)
    assert float(found.residual[0]) < 1e-4
    assert math.isnan(float(found.misfit[0]))


def test_sart_is_sirt_view_by_view():
    x, y = torch.zeros(1, 1, 3, 3, dtype=torch.float64), noise(1, *SQUARE.range.shape)
    for k in range(8):
        a = matrix(SQUARE.subset([k]))
        rows, columns = (torch.where(v > 1e-9, 1 / v.clamp_min(1e-9), 0.0) for v in (a.sum(1), a.sum(0)))
        gap = y[0, 0, k] - a @ x.flatten()
        x = x + 0.5 * (columns * (a.T @ (rows * gap))).reshape(x.shape)
    assert torch.allclose(CLASSICS["sart"](Measurement(SQUARE, y), iterations=1).image, x, atol=1e-12)


def test_rays_that_were_not_measured_count_nowhere():
    mask = torch.ones(SQUARE.range.shape)
    mask[:, 2] = 0
    mask[:, :, 4] = 0
    mask[:, 3, 1] = 0
    y = noise(1, *SQUARE.range.shape)
    broken = torch.where(mask > 0, y, 1e6)
    for name, options in (
        ("sirt", {}),
        ("sart", {}),
        ("os_sart", {"subsets": 3}),
        ("cgls", {}),
        ("fista", {"strength": 1.0}),
    ):
        clean, other = (CLASSICS[name](Measurement(SQUARE, v, mask=mask), iterations=4, **options) for v in (y, broken))
        assert torch.allclose(clean.image, other.image)
    with pytest.raises(InputError, match="complete sinogram"):
        CLASSICS["fbp"](Measurement(SQUARE, y, mask=mask))


def test_tikhonov_is_the_ridge():
    measurement = gaussian(PARALLEL, 0.3, 1)
    found = CLASSICS["tikhonov"](measurement, strength=2.0, tolerance=1e-13)
    a = matrix(PARALLEL) / 0.3
    exact = torch.linalg.solve(a.T @ a + 2 * torch.eye(64, dtype=torch.float64), a.T @ measurement.y.flatten() / 0.3)
    assert torch.allclose(found.image.flatten(), exact, atol=1e-8)
    assert found.penalty[0] == pytest.approx(0.5 * float(exact @ exact))


def test_iterations_end_at_the_noise():
    for name, options in (("cgls", {}), ("sirt", {}), ("os_sart", {"subsets": 3}), ("fista", {"strength": 0.0})):
        measurement = gaussian(PARALLEL, 1.0)
        found = CLASSICS[name](measurement, iterations=300, discrepancy=1.0, **options)
        assert found.stopped == ("discrepancy",) * 2
        assert float(found.misfit.max()) <= 1
        less = [
            CLASSICS[name](measurement.item(i), iterations=max(found.iterations[i] - 1, 1), **options) for i in range(2)
        ]
        assert all(n == 1 or float(r.misfit[0]) > 1 for n, r in zip(found.iterations, less, strict=True))
    with pytest.raises(InputError, match="a law, such as"):
        CLASSICS["sirt"](Measurement(PARALLEL, measurement.y), discrepancy=1.0)


# ---- k-space ---------------------------------------------------------------------------------------------------------


def least(operator, y, psi=None):
    """Dense least squares of complex data, weighted by the coils."""
    a, b = matrix(operator), flat(y)[0]
    if psi is not None:
        root = torch.linalg.cholesky(torch.linalg.inv(psi)).mH
        whiten = torch.einsum("cd,bd...->bc...", root, y)
        columns = torch.eye(operator.domain.count, dtype=torch.float64)
        columns = torch.view_as_complex(columns.reshape(-1, *operator.domain.shape, 2))
        a = flat(torch.einsum("cd,bd...->bc...", root, operator.forward(columns))).T
        b = flat(whiten)[0]
    return torch.view_as_complex((torch.linalg.pinv(a, rtol=1e-10) @ b).reshape(*operator.domain.shape, 2)), a


PSI = torch.tensor([[1.0, 0.3j, 0, 0], [-0.3j, 1.2, 0, 0], [0, 0, 0.7, 0.1], [0, 0, 0.1, 1]], dtype=torch.complex128)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("size", "step", "first"), [((6, 8), 2, 1), ((9, 6), 3, 1), ((6, 9), 3, 2)])
@pytest.mark.parametrize("psi", [None, PSI])
def test_sense_is_least_squares(axis, size, step, first, psi):
    size = size if axis == 0 else size[::-1]
    mask = torch.zeros(size)
    mask.movedim(axis, 0)[first::step] = 1
    operator = CartesianMRI(mask, maps=birdcage(size, 4))
    law = GaussianNoise.white(0.2) if psi is None else GaussianNoise.coils(psi)
    measurement = Measurement.simulate(operator, law, operator.domain.white(2, "x"), [3])
    exact, a = least(operator, measurement.y, psi)
    found = CLASSICS["sense"](measurement)
    assert torch.allclose(found.image[0], exact, atol=1e-9)
    assert found.stopped == ("closed form",)
    iterative = CLASSICS["cg_sense"](measurement, iterations=300, tolerance=1e-12)
    assert torch.allclose(iterative.image[0], exact, atol=1e-7)
    whole = CartesianMRI(torch.ones(size), maps=birdcage(size, 4))
    _, full = least(whole, noise(1, 4, *size) + 0j, psi)
    spread, free = (torch.linalg.inv(m.T @ m).diagonal().reshape(*size, 2)[..., 0] for m in (a, full))
    assert torch.allclose(g_factor(measurement), (spread / free / step).sqrt(), atol=1e-9)


def test_cg_sense_with_a_strength_is_the_ridge():
    measurement = gaussian(RANDOM, 0.5, 1)
    a = matrix(RANDOM) / 0.5
    exact = torch.linalg.solve(
        a.T @ a + 0.7 * torch.eye(a.shape[1], dtype=torch.float64), a.T @ flat(measurement.y)[0] / 0.5
    )
    found = CLASSICS["cg_sense"](measurement, strength=0.7, iterations=300, tolerance=1e-13)
    assert torch.allclose(flat(found.image)[0], exact, atol=1e-8)


# ---- counts ----------------------------------------------------------------------------------------------------------


def em(a, y, b, x, times=1):
    for _ in range(times):
        x = x / a.sum(0) * (a.T @ (y / (a @ x + b)))
    return x


def test_ml_em_climbs_to_the_maximum_of_the_likelihood():
    measurement = poisson(PET, 1)
    a, y, b = matrix(PET), measurement.y.flatten(), 4.0
    start = noise(1, 1, *SIZE).abs() + 1
    found = CLASSICS["ml_em"](measurement, iterations=3, start=start)
    assert torch.allclose(found.image.flatten(), em(a, y, b, start.flatten(), 3), rtol=1e-10)
    values = [
        float(measurement.log_likelihood(CLASSICS["ml_em"](measurement, iterations=k).image)) for k in range(1, 8)
    ]
    assert values == sorted(values)


def test_ml_em_ends_where_the_conditions_of_the_maximum_hold():
    operator = emission(SQUARE, sensitivity=30.0, randoms=4.0)
    measurement = poisson(operator, 1)
    truth = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    truth[..., 1, :2] = 20.0
    y = operator.forward(truth) * (1 + 0.2 * noise(1, 1, 8, 6)).clamp_min(0)
    measurement = replace(measurement, y=y)
    a, y = matrix(operator), measurement.y.flatten()
    x = CLASSICS["ml_em"](measurement, iterations=400).image.flatten()
    slope = a.T @ (y / (a @ x + 4.0) - 1) / a.sum(0)
    assert float(x.min()) >= 0
    assert 0 < int((x < 1e-3).sum()) < 9
    assert float(slope[x > 0.1].abs().max()) < 1e-3
    assert float(slope.max()) < 1e-2


def test_the_total_of_em_is_that_of_the_data():
    measurement = poisson(MICROSCOPE, 1)
    found = CLASSICS["richardson_lucy"](measurement, iterations=1)
    assert float(found.image.sum()) == pytest.approx(float(measurement.y.sum()), rel=1e-10)
    y = measurement.y.flatten()
    constant = torch.full_like(y, float(y.mean()))
    assert torch.allclose(found.image.flatten(), em(matrix(MICROSCOPE), y, 0.0, constant), rtol=1e-10)


def test_ordered_subsets_solve_consistent_counts_sooner():
    x = 5 + noise(1, 1, *SIZE).abs()
    measurement = Measurement(PET, PET.forward(x), PoissonNoise())
    whole = CLASSICS["ml_em"](measurement, iterations=10).image
    parts = CLASSICS["os_em"](measurement, iterations=10, subsets=4).image
    assert float((parts - x).norm()) < 0.8 * float((whole - x).norm())
    small = emission(SQUARE, sensitivity=30.0, randoms=4.0)
    x = 5 + noise(1, 1, 3, 3).abs()
    far = CLASSICS["os_em"](Measurement(small, small.forward(x), PoissonNoise()), iterations=200, subsets=2)
    assert torch.allclose(far.image, x, rtol=1e-3)
    one, two = (CLASSICS[n](measurement, iterations=3, **o) for n, o in (("os_em", {"subsets": 1}), ("ml_em", {})))
    assert torch.equal(one.image, two.image)


def test_views_of_a_weighted_and_shifted_operator():
    part = some_views(PET, [1, 6])
    x = noise(1, 1, *SIZE)
    assert torch.allclose(part.forward(x), PET.forward(x)[:, :, [1, 6]])
    with pytest.raises(InputError, match="no views"):
        some_views(MICROSCOPE, [0])


# ---- penalties -------------------------------------------------------------------------------------------------------


def certificate(measurement, found, strength, penalty, nonnegative=False, rounds=800):
    """Least |gradient + D^T p| over |p| <= strength by projected gradients: 0 at the minimum, and nowhere else."""
    operator, data = measurement.whitened() if measurement.noise else (measurement.operator, measurement.y)
    x = found.image
    gradient = operator.adjoint(operator.forward(x) - data)
    z = penalty.analyse(x)
    size = penalty.sizes(z)
    fixed = size > 1e-5
    free = (x > 1e-6) | (not nonnegative)
    p = torch.where(fixed, strength * z / size.clamp_min(1e-12), torch.zeros_like(z))
    for _ in range(rounds):
        rest = gradient + penalty.synthesise(p)
        rest = torch.where(free, rest, rest.clamp_max(0)) if nonnegative else rest
        new = p - 0.12 * penalty.analyse(rest)
        new = new / (penalty.sizes(new) / strength).clamp_min(1.0)
        p = torch.where(fixed, p, new)
    rest = gradient + penalty.synthesise(p)
    rest = torch.where(free, rest, rest.clamp_max(0)) if nonnegative else rest
    return float(rest.norm() / gradient.norm())


@pytest.mark.parametrize("name", ["fista", "admm"])
@pytest.mark.parametrize("nonnegative", [False, True])
def test_total_variation_ends_where_its_conditions_hold(name, nonnegative):
    operator = Radon((4, 5), ParallelBeam(even_angles(6), 7, 1.0))
    measurement = Measurement(operator, operator.forward(steps(4, 5) - 0.1) + 0.1 * noise(1, 1, 6, 7))
    found = CLASSICS[name](measurement, strength=0.3, iterations=120, tolerance=1e-8, inner=8, nonnegative=nonnegative)
    assert certificate(measurement, found, 0.3, TotalVariation(operator.domain), nonnegative) < 2e-3
    assert not nonnegative or float(found.image.min()) >= 0


def test_both_ways_end_in_one_minimum():
    operator = Blur.gaussian((8, 8), 1.5)
    measurement = Measurement(operator, operator.forward(steps(8, 8)), GaussianNoise.white(0.1))
    for penalty in ("tv", "wavelet"):
        options = {"strength": 4.0, "penalty": penalty, "levels": 2, "iterations": 120, "tolerance": 1e-8}
        one, two = (CLASSICS[n](measurement, inner=10, **options) for n in ("fista", "admm"))
        assert one.history[0][-1] == pytest.approx(two.history[0][-1], rel=1e-5)
        assert torch.allclose(one.image, two.image, atol=2e-3)


@pytest.mark.parametrize("name", ["fista", "admm"])
def test_denoising_of_one_step_is_the_closed_form(name):
    """Both halves move towards each other by strength over their width; above the threshold they meet."""
    y = torch.zeros(1, 1, 4, 8, dtype=torch.float64)
    y[..., 4:] = 1.0
    for strength, gap in ((0.4, 1 - 2 * 0.4 / 4), (2.5, 0.0)):
        found = CLASSICS[name](Measurement(Identity((4, 8)), y), strength=strength, iterations=500, tolerance=1e-10)
        low, high = (1 - gap) / 2, (1 + gap) / 2
        assert torch.allclose(found.image[..., :4], torch.full_like(y[..., :4], low), atol=1e-4)
        assert torch.allclose(found.image[..., 4:], torch.full_like(y[..., 4:], high), atol=1e-4)
        assert found.penalty[0] == pytest.approx(4 * gap, abs=2e-3)


@pytest.mark.parametrize("name", ["fista", "admm"])
def test_denoising_with_wavelets_is_the_soft_threshold(name):
    x = noise(1, 1, 8, 8)
    penalty = WaveletPenalty(Identity((8, 8)).domain, "db2", 2)
    u = penalty.basis.forward(x)
    detail = penalty.detail
    soft = torch.where(detail, u.sign() * (u.abs() - 0.5).clamp_min(0), u)
    found = CLASSICS[name](
        Measurement(Identity((8, 8)), x), strength=0.5, penalty="wavelet", levels=2, iterations=400, tolerance=1e-11
    )
    assert int(detail.sum()) == 60
    assert torch.allclose(found.image, penalty.basis.inverse(soft), atol=1e-6)
    assert found.stopped == ("tolerance",)


def test_wavelets_of_k_space_end_where_their_conditions_hold():
    operator = CartesianMRI(sampling("random", (8, 8), 2, center=0.25), maps=birdcage((8, 8), 3))
    x = torch.complex(steps(8, 8), 0.3 * steps(8, 8).flip(-1))
    measurement = Measurement.simulate(operator, GaussianNoise.white(0.1), x, [1])
    found = CLASSICS["fista"](measurement, strength=3.0, penalty="wavelet", levels=2, iterations=300, tolerance=1e-11)
    white, data = measurement.whitened()
    penalty = WaveletPenalty(operator.domain, "db2", 2)
    slope = penalty.analyse(white.adjoint(data - white.forward(found.image)))
    u, detail = penalty.analyse(found.image), penalty.detail
    assert float(slope[..., ~detail].abs().max()) < 1e-5
    assert float(slope[..., detail].abs().max()) < 3.0 + 1e-5
    on = detail & (u[0, 0].abs() > 1e-6)
    assert torch.allclose(slope[0, 0][on], 3.0 * u[0, 0][on] / u[0, 0][on].abs(), atol=1e-4)


@pytest.mark.parametrize("penalty", [TotalVariation(MICROSCOPE.domain), WaveletPenalty(MICROSCOPE.domain, "haar", 2)])
def test_penalties_have_their_adjoint(penalty):
    x, z = noise(2, 1, *SIZE), penalty.analyse(noise(2, 1, *SIZE, seed=3)) * 0.7
    assert float((penalty.analyse(x) * z).sum()) == pytest.approx(float((x * penalty.synthesise(z)).sum()), rel=1e-12)


# ---- closed forms ----------------------------------------------------------------------------------------------------


def test_wiener_is_the_dense_estimate():
    measurement = gaussian(MICROSCOPE, 0.3, 1)
    spectrum = Spectrum.power_law(1.5, 2.0, 0.1, 2.0)
    found = CLASSICS["wiener"](measurement, prior=spectrum)
    a = matrix(MICROSCOPE)
    unit = torch.eye(64, dtype=torch.float64).reshape(-1, 1, *SIZE)
    c = Covariance.of_spectrum(spectrum, Fourier(SIZE)).power(unit, 1.0).flatten(1).T
    gain = c @ a.T @ torch.linalg.inv(a @ c @ a.T + 0.09 * torch.eye(64, dtype=torch.float64))
    exact = 1.5 + gain @ (measurement.y.flatten() - 1.5 * a.sum(1))
    assert torch.allclose(found.image.flatten(), exact, atol=1e-9)
    with pytest.raises(InputError, match="posterior_mean"):
        CLASSICS["wiener"](gaussian(PARALLEL), prior=prior())


def test_morozov_finds_the_strength_of_the_noise():
    measurement = gaussian(PARALLEL, 1.0, 1)
    found = choose(measurement, method="tikhonov", low=1e-6, high=1e4, accuracy=1e-6)
    a, y = matrix(PARALLEL), measurement.y.flatten()
    u, s, _ = torch.linalg.svd(a)
    c = u.T @ y

    def misfit(strength):
        shrunk = torch.cat([strength / (s**2 + strength), torch.ones(len(c) - len(s), dtype=torch.float64)])
        return float(((shrunk * c) ** 2).sum()) - len(c)

    low, high = 1e-6, 1e4
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if misfit(middle) > 0 else (middle, high)
    assert found.parameter[0] == pytest.approx(low, rel=1e-3)
    assert float(found.misfit[0]) == pytest.approx(1, abs=1e-5)
    with pytest.raises(InputError, match="Widen"):
        choose(measurement, method="tikhonov", low=1e3, high=1e4)


def test_the_corner_of_the_l_curve_is_near_the_best():
    operator = Blur.gaussian((16, 16), 3.0)
    x = steps(16, 16)
    measurement = Measurement.simulate(operator, GaussianNoise.white(0.02), x, [1])
    found = choose(measurement, method="tikhonov", rule="l_curve", low=1e-4, high=1e4, points=25)
    errors = [
        float((CLASSICS["tikhonov"](measurement, strength=10.0**k).image - x).norm())
        for k in torch.arange(-4, 4.1, 0.5)
    ]
    assert float((found.image - x).norm()) < 1.3 * min(errors)
    assert found.penalty[0] > 0


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: CLASSICS["fbp"](gaussian(MICROSCOPE)), "a Radon operator"),
        (lambda: CLASSICS["fdk"](gaussian(PARALLEL)), "ConeBeam"),
        (lambda: CLASSICS["fbp"](gaussian(PARALLEL), filter="hamm"), "Did you mean 'hamming'"),
        (lambda: CLASSICS["fbp"](gaussian(PARALLEL), cutoff=0.0), "Nyquist"),
        (lambda: CLASSICS["sirt"](gaussian(PARALLEL), relaxation=2.0), "below 2"),
        (lambda: CLASSICS["sirt"](gaussian(PARALLEL), iterations=0), "positive whole"),
        (lambda: CLASSICS["sirt"](gaussian(RANDOM)), "Use cgls"),
        (lambda: CLASSICS["sirt"](gaussian(Blur((8, 8), noise(3, 3)))), "negative weights"),
        (lambda: CLASSICS["sart"](gaussian(MICROSCOPE)), "no views"),
        (lambda: CLASSICS["os_sart"](gaussian(PARALLEL), subsets=10), "1 to 9"),
        (lambda: CLASSICS["tikhonov"](gaussian(PARALLEL), strength=0.0), "positive"),
        (lambda: CLASSICS["ml_em"](gaussian(PARALLEL)), "at least 0"),
        (lambda: CLASSICS["ml_em"](poisson(PET), start=-torch.ones(1, 1, *SIZE)), "above 0"),
        (lambda: CLASSICS["richardson_lucy"](poisson(PET)), "Use ml_em"),
        (lambda: CLASSICS["fista"](gaussian(PARALLEL), strength=-1.0), "at least 0"),
        (lambda: CLASSICS["fista"](gaussian(PARALLEL), strength=1.0, penalty="tvv"), "Did you mean 'tv'"),
        (lambda: CLASSICS["admm"](gaussian(PARALLEL), strength=1.0, coupling=0.0), "coupling"),
        (lambda: CLASSICS["sense"](gaussian(RANDOM)), "Use cg_sense"),
        (lambda: CLASSICS["sense"](gaussian(PARALLEL)), "maps of several coils"),
        (lambda: CLASSICS["cg_sense"](gaussian(PARALLEL)), "Use cgls"),
        (lambda: CLASSICS["cg_sense"](gaussian(SENSE), strength=1.0, discrepancy=1.0), "beside a strength"),
        (lambda: choose(gaussian(PARALLEL), method="sirt"), "one of admm, fista, tikhonov"),
        (lambda: choose(gaussian(FAN), low=2.0, high=1.0), "0 < low < high"),
        (lambda: CLASSICS["wiener"](gaussian(Mask(random_mask(SIZE, 0.5))), prior=prior()), "posterior_mean"),
    ],
)
def test_what_cannot_be_reconstructed_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
