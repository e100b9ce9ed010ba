"""The truth table of the diagnostics: closed forms of Gaussian data, and what each sees of a broken denoiser."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from models import SPECTRUM, make_model
from retrodict import InputError
from retrodict.bases import Fourier
from retrodict.cli.app import app
from retrodict.denoisers.conservative import Conservative
from retrodict.denoisers.denoiser import Estimate, FunctionDenoiser, GaussianDenoiser
from retrodict.denoisers.diagnostics import (
    fokker_planck,
    intrinsic_dimension,
    jacobian,
    probes_of,
    score_error,
    stein,
    whitened,
)
from retrodict.denoisers.mixture import MixtureDenoiser, MixtureLaw
from retrodict.denoisers.wrappers import Wrapper
from retrodict.processes import PROCESSES
from retrodict.processes.observation import Cond, noise_like, wiener
from retrodict.samplers.loop import start_state
from retrodict.samplers.trajectory import persistence, trajectory
from retrodict.tasks.diagnose import diagnose, diagnosis

SIZE, T = (4, 3), 0.4
D = math.prod(SIZE)
BASIS = Fourier(SIZE)
NAMES = ("vp", "ve", "fourier")


def gaussian(name: str) -> GaussianDenoiser:
    return GaussianDenoiser(PROCESSES[name](BASIS), spectrum=SPECTRUM)


def designed(denoiser) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """As many states as there are pixels whose mean square is exactly the covariance of p_t, times, exact probes."""
    unit = math.sqrt(D) * torch.eye(D, dtype=torch.float64).reshape(D, 1, *SIZE)
    t = torch.full((D,), T, dtype=torch.float64)
    m, (mean, L) = denoiser.process.moments(t[:1]), denoiser.prior()
    x = BASIS.inverse(m.h * mean + (m.h**2 * L + m.s2).sqrt() * BASIS.forward(unit))
    return x, t, [column[None].expand_as(x).contiguous() for column in unit]


@dataclass(frozen=True)
class Broken(Wrapper):
    """What a fault adds to the whitened score S: "shrunk" 0.3 S, "turned" a rotation -0.3 K S, which is div-free
    under p_t; "late" answers for another time."""

    fault: str = ""

    def estimate(self, xt, t, cond=None) -> Estimate:
        t = t + 0.2 if self.fault == "late" else t
        d = self.inner(xt, t)
        if self.fault == "late":
            return Estimate(d, None)
        at, z = whitened(self.inner, xt, t)
        s = at.score(z)
        more = 0.3 * s if self.fault == "shrunk" else -0.15 * (s.roll(1, 2) - s.roll(-1, 2))
        return Estimate(d + BASIS.inverse(at.m.s2.sqrt() / at.m.h * BASIS.forward(more)), None)


def table(denoiser) -> dict[str, float]:
    """Every statistic, exactly, at one time."""
    x, t, probes = designed(denoiser)
    at, z = whitened(denoiser, x, t)
    there = jacobian(at, z, probes)
    found = stein(at, z, BASIS.bands(2), there.trace)
    some = slice(0, 4)
    left = fokker_planck(denoiser, x[some], t[some], probes_of(x[some], torch.arange(4), 1)[0])
    return {
        "asymmetry": float(there.asymmetry.max()),
        "stein": float((found.bands.mean(0) - 1).abs().max()),
        "turn": float((found.turn.mean(0) / found.score2.mean()).abs().max()),
        "hyvarinen": abs(float(found.hyvarinen.mean())),
        "fokker_planck": float(left.max()),
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_statistic_of_gaussian_data_is_its_closed_form(name):
    denoiser = gaussian(name)
    x, t, probes = designed(denoiser)
    m, L, weight = denoiser.process.moments(t[:1]), denoiser.prior()[1], BASIS.multiplicity()
    share = m.h**2 * L / (m.h**2 * L + m.s2)
    there = jacobian(*whitened(denoiser, x, t), probes)
    assert float((there.trace - (weight * share).sum()).abs().max()) < 1e-10
    assert float((there.size - (weight * share**2).sum()).abs().max()) < 1e-10
    rank = (weight * share).sum() ** 2 / (weight * share**2).sum()
    assert float((there.stable_rank - rank).abs().max()) < 1e-9
    assert float(there.added.max()) < 1e-20
    found = table(denoiser)
    assert max(v for k, v in found.items() if k != "fokker_planck") < 1e-10
    assert found["fokker_planck"] < 1e-8


def test_a_mixture_is_symmetric_and_moves_as_its_law_must():
    """Not Gaussian: the gradient of the trace is not zero here, and one probe of a single direction is exact."""
    basis = Fourier((1, 1))
    law = MixtureLaw(basis, torch.tensor([0.3, 0.7]).double(), torch.tensor([[[-1.0]], [[2.0]]]).double(),
                     torch.full((2, 1, 1), 0.2, dtype=torch.float64))  # fmt: skip
    denoiser = MixtureDenoiser(PROCESSES["vp"](basis), law)
    x = torch.linspace(-2, 3, 7, dtype=torch.float64).reshape(7, 1, 1, 1)
    t = torch.full((7,), 0.4, dtype=torch.float64)
    left = fokker_planck(denoiser, x, t, torch.ones_like(x))
    assert float(left.max()) < 1e-6
    # the denoiser of N(m, v) alone is wrong here, though it is a gradient
    other = denoiser.gaussian()
    assert float(jacobian(*whitened(other, x, t), [torch.ones_like(x)]).asymmetry.max()) < 1e-12


def test_a_mixture_on_an_image_has_a_symmetric_jacobian_in_whitened_coordinates():
    L = SPECTRUM.on(BASIS)
    law = MixtureLaw(BASIS, torch.tensor([0.5, 0.5]).double(), torch.stack([L.sqrt(), -L.sqrt()]).double(),
                     torch.stack([0.3 * L, 0.3 * L]))  # fmt: skip
    denoiser = MixtureDenoiser(PROCESSES["fourier"](BASIS), law)
    x, t, probes = designed(denoiser)
    there = jacobian(*whitened(denoiser, x[:3], t[:3]), [p[:3] for p in probes])
    assert float(there.asymmetry.max()) < 1e-10
    assert float(there.added.min()) > 1e-3  # it is not the Gaussian one


@pytest.mark.parametrize(
    ("fault", "sees", "blind"),
    [
        ("shrunk", {"stein", "hyvarinen", "fokker_planck"}, {"asymmetry", "turn"}),
        ("turned", {"asymmetry", "turn"}, {"stein"}),
        ("late", {"stein", "fokker_planck"}, {"asymmetry", "turn"}),
    ],
)
@pytest.mark.parametrize("name", ["vp", "fourier"])
def test_a_broken_denoiser_is_seen_by_what_should_see_it(name, fault, sees, blind):
    found = table(Broken(gaussian(name), fault))
    assert {k for k in sees if found[k] > 0.01} == sees, found
    assert {k for k in blind if found[k] < 1e-9} == blind, found


def test_random_probes_agree_with_the_exact_numbers_within_their_error():
    denoiser = gaussian("vp")
    x, t, probes = designed(denoiser)
    at, z = whitened(denoiser, x[:2], t[:2])
    exact = jacobian(at, z, [p[:2] for p in probes])
    found = jacobian(at, z, probes_of(z, torch.arange(2), 30))
    assert bool(((found.trace - exact.trace).abs() < 4 * found.error).all())
    one = jacobian(*whitened(denoiser, x[1:2], t[1:2]), probes_of(z[1:], torch.tensor([1]), 30))
    assert float((one.trace - found.trace[1:]).abs()) < 1e-9  # an item does not know the others


def test_the_dimension_of_a_plane_is_that_of_the_plane():
    """Five directions of variance 1 and no others, at a clean point and noise 0.05: 4.989 (spec), tr A = 4.9875."""
    L = torch.zeros(8, 8, dtype=torch.float64)
    L.flatten()[:5] = 1.0
    from retrodict.bases import Pixel

    process = PROCESSES["ve"](Pixel((8, 8)))
    times = torch.linspace(0.001, 0.999, 4001, dtype=torch.float64)
    t = times[(process.moments(times).s2.flatten().sqrt() - 0.05).abs().argmin()][None]
    s2 = float(process.moments(t).s2)
    denoiser = GaussianDenoiser(process, spectrum=L)
    x = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    x[0, 0].flatten()[:5] = 0.5
    at, z = whitened(denoiser, x, t)
    unit = 8 * torch.eye(64, dtype=torch.float64).reshape(64, 1, 1, 8, 8)
    trace = jacobian(at, z, list(unit)).trace
    assert float(trace) == pytest.approx(5 / (1 + s2), abs=1e-9)
    dimension = intrinsic_dimension(at, z, trace)
    assert float(dimension) == pytest.approx(5 / (1 + s2) + 5 * 0.25 * s2 / (1 + s2) ** 2, abs=1e-9)
    assert abs(float(dimension) - 5) < 0.02


def test_the_error_by_band_is_that_of_the_wiener_filter_within_its_scatter():
    denoiser = gaussian("fourier")
    n, bands = 2000, BASIS.bands(2)
    seeds = torch.arange(n)
    (mean, L), zero = denoiser.prior(), torch.zeros(n, 1, *SIZE, dtype=torch.float64)
    x0 = BASIS.inverse(mean + L.sqrt() * BASIS.forward(noise_like(zero, seeds, "image", 0)))
    t = torch.full((n,), T, dtype=torch.float64)
    xt = denoiser.process.corrupt(x0, t, noise_like(zero, seeds, "state", 0))
    error = score_error(denoiser, x0, xt, t, bands)
    v = wiener(denoiser.process.moments(t[:1]), L)[1]
    for b, (_, _, mask) in enumerate(bands):
        exact = float((BASIS.multiplicity() * v * mask).sum())
        assert float(error.wiener[0, b]) == pytest.approx(exact, rel=1e-12)
        assert float(error.stated[0, b]) == pytest.approx(exact, rel=1e-12)
        sem = float(error.error[:, b].std()) / math.sqrt(n)
        assert abs(float(error.error[:, b].mean()) - exact) < 4 * sem
    assert float(error.pooled().excess.max()) < 0.003
    wrong = score_error(Broken(denoiser, "shrunk"), x0, xt, t, bands).pooled()
    assert float(wrong.excess.max()) > 0.02


@pytest.mark.parametrize("name", ["vp", "fourier"])
def test_a_gaussian_trajectory_is_its_closed_form(name):
    denoiser = gaussian(name)
    seeds, (mean, L) = torch.arange(3), denoiser.prior()
    process = denoiser.process
    zero = torch.zeros(3, 1, *SIZE, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    if process.pairing.starts:
        start = process.to_coefficients(process.corrupt(zero, one, noise_like(zero, seeds, "state", 0)), one)
    else:
        start = start_state(process, seeds, (1, *SIZE), mean=mean, spectrum=L, dtype=torch.float64)
    bands = BASIS.bands(2)
    found = trajectory(denoiser, start, seeds, bands, 12)
    assert float((1 - found.gaussian).abs().max()) < 1e-8
    assert float((found.shown[:, :, -1] - 1).abs().max()) < 1e-12
    # one direction: x_0 - m = psi (w_1 - h_1 m), and a move of dw at t ends sqrt(L / (h^2 L + s^2)) dw off
    moved = persistence(denoiser, start, seeds, [4], 12)
    m1, m = process.moments(one), process.moments(found.times[4:5])
    end = (L / (m1.h**2 * L + m1.s2)).sqrt() * (start - m1.h * mean)
    field = m.s2.sqrt() * BASIS.forward(noise_like(zero, seeds, "move", 4))
    off = (L / (m.h**2 * L + m.s2)).sqrt() * field
    exact = [BASIS.inverse(v).flatten(1).norm(dim=1) for v in (off, end)]
    assert float((moved[:, 0] - exact[0] / exact[1]).abs().max()) < 1e-8


def test_what_of_the_plane_a_straight_line_and_a_helix_leave():
    from retrodict.samplers.trajectory import _plane, _turn

    s = torch.linspace(0, 1, 20, dtype=torch.float64)
    circle = torch.stack([s.cos(), s.sin(), 0 * s], 1)[None]
    helix = torch.stack([(9 * s).cos(), (9 * s).sin(), 3 * s], 1)[None]
    assert float(_plane(circle)) == pytest.approx(1.0, abs=1e-12)
    assert float(_turn(circle)) == pytest.approx(1.0, abs=1e-12)
    assert 0.5 < float(_plane(helix)) < 0.95
    assert float(_turn(helix)) < 0.95


def save(path, values: torch.Tensor) -> None:
    """An image in HU with pixels of 1 mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, image=values.numpy(), unit="HU", spacing=np.array([1.0, 1.0]))


@pytest.mark.parametrize("name", ["fourier", "vp"])
def test_a_conservative_denoiser_is_a_gradient_whatever_the_network(tmp_path, name):
    denoiser = make_model(tmp_path, name, zero=False, size=(8, 8)).denoiser
    denoiser = replace(denoiser, net=denoiser.net.double())
    x = noise_like(torch.zeros(2, 1, 8, 8, dtype=torch.float64), torch.arange(2), "x", 0)
    t = torch.full((2,), 0.3, dtype=torch.float64)
    cond = denoiser.process.pairing.cond(x.flip(0)) if denoiser.process.pairing.sees else Cond()
    probes = probes_of(x, torch.arange(2), 3)
    before = jacobian(*whitened(denoiser, x, t, cond), probes).asymmetry
    after = jacobian(*whitened(Conservative(denoiser), x, t, cond), probes)
    assert float(before.min()) > 0.01
    assert float(after.asymmetry.max()) < 1e-10
    assert float(after.added.min()) > 1e-6  # the network still says something
    alone = Conservative(denoiser)(x[:1], t[:1], Cond(*(None if c is None else c[:1] for c in cond)))
    assert float((alone - Conservative(denoiser)(x, t, cond)[:1]).abs().max()) < 1e-10


def test_a_conservative_denoiser_leaves_what_is_a_gradient_already_alone():
    inner = gaussian("fourier")
    x, t, _ = designed(inner)
    assert float((Conservative(inner)(x, t) - inner(x, t)).abs().max()) < 1e-12
    turned = Broken(inner, "turned")  # linear: its antisymmetric part goes, the rest stays
    assert float((Conservative(turned)(x, t) - inner(x, t)).abs().max()) < 1e-10
    with pytest.raises(InputError, match="spectrum"):
        Conservative(FunctionDenoiser(lambda xt, t: xt, inner.process))


# ---- the task --------------------------------------------------------------------------------------------------------


def test_a_model_that_is_the_wiener_filter_passes_and_its_page_says_so(tmp_path):
    made = make_model(tmp_path, size=(16, 16))  # a network that answers zero
    found = diagnose(made, points=2, times=(0.1, 0.6), out=tmp_path / "out")
    record = json.loads((tmp_path / "out" / "diagnose.json").read_text())
    assert record["findings"] == found.record["findings"]
    assert all(f["holds"] for f in record["findings"])
    assert {f["name"] for f in record["findings"]} == {"asymmetry", "fokker_planck"}
    assert [row["t"] for row in record["times"]] == [0.1, 0.6]
    for row in record["times"]:
        assert row["trace"]["mean"] == pytest.approx(row["trace_gaussian"], rel=0.1)
    page = (tmp_path / "out" / "diagnose.html").read_text()
    assert "2 of 2 identities" in page
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_network_of_random_weights_is_no_gradient(tmp_path):
    found = diagnose(make_model(tmp_path, zero=False, size=(16, 16)), points=2, times=(0.3,))
    assert not any(f["holds"] for f in found.record["findings"])


def test_with_images_everything_is_measured_and_counted_by_patient():
    denoiser = gaussian("vp")
    seeds, (mean, L) = torch.arange(16), denoiser.prior()
    white = noise_like(torch.zeros(16, 1, *SIZE, dtype=torch.float64), seeds, "data", 0)
    x0 = BASIS.inverse(mean + L.sqrt() * BASIS.forward(white))
    images = [(f"p{i // 2}", x) for i, x in enumerate(x0)]
    record = diagnosis(denoiser, images, times=(0.3,)).record
    assert (record["patients"], record["images"]) == (8, 16)
    assert {f["name"] for f in record["findings"]} == {
        "asymmetry", "fokker_planck", "stein", "turn", "hyvarinen", "excess"
    }  # fmt: skip
    assert all(f["holds"] for f in record["findings"] if f["name"] != "excess")
    broken = diagnosis(Broken(denoiser, "shrunk"), images, times=(0.3,)).record
    assert not {f["name"]: f["holds"] for f in broken["findings"]}["stein"]


def test_the_command_reads_a_folder_and_a_table(tmp_path):
    make_model(tmp_path, size=(16, 16))
    g = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        save(tmp_path / "images" / name / "x.npz", 100 * torch.randn(40, 36, generator=g))
    command = ["diagnose", str(tmp_path / "model"), "--points", "2", "--times", "0.5", "--threads", "1"]
    done = CliRunner().invoke(app, [*command, "--data", str(tmp_path / "images"), "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert (record["patients"], record["measured"]) == (2, True)
    assert len(record["times"][0]["stein"]) == len(record["bands"])


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"points": 0}, "points"),
        ({"probes": 1}, "probes"),
        ({"times": (0.0,)}, "times"),
        ({"times": ()}, "times"),
        ({"data": "nowhere"}, "data"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused_by_name(tmp_path, options, field):
    with pytest.raises(InputError) as caught:
        diagnose(make_model(tmp_path), **options)
    assert caught.value.field == field if hasattr(caught.value, "field") else field in str(caught.value)


def test_images_that_do_not_fit_are_named(tmp_path):
    make_model(tmp_path)
    save(tmp_path / "images" / "small.npz", torch.zeros(20, 20))
    with pytest.raises(InputError, match=r"small\.npz"):
        diagnose(tmp_path / "model", tmp_path / "images")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image"):
        diagnose(tmp_path / "model", tmp_path / "empty")
