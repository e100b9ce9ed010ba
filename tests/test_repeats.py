"""Two scans of one object: closed forms with the exact denoiser, and every way in which scans are no repeats."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from models import SPECTRUM, make_model
from retrodict import GaussianDenoiser, Image, InputError, RestoreOptions, evaluate_repeats
from retrodict.bases import Fourier
from retrodict.models.model import open_model
from retrodict.processes.fourier import fourier, measured
from retrodict.processes.observation import noise_like
from retrodict.tasks.repeats import _second
from retrodict.tasks.repeats_law import DISCS, Laws, edges_of, joined
from retrodict.tasks.repeats_words import figures
from retrodict.tasks.restore import Job
from shell import retrodict as command_line

SIDE, K = 112, 6
PROCESS = fourier(Fourier((SIDE, SIDE)))


def noise(name, seed, process=PROCESS):
    size = process.basis.size
    return process.basis.forward(
        noise_like(torch.zeros(1, 1, *size, dtype=torch.float64), torch.tensor([seed]), name, 0)
    )


def truth(seed, process=PROCESS):
    """Coefficients of Gaussian data, float64."""
    basis = process.basis
    return SPECTRUM.mean_on(basis) + SPECTRUM.on(basis).sqrt() * noise("truth", seed, process)


def scan_of(u, z, process=PROCESS, factor=1.0):
    m = process.measurement
    return process.basis.inverse(m.h * u + factor * m.s2.sqrt() * z)


# ---- closed form ----------------------------------------------------------------------------------------------------


def seen_of(spread=1.0, shared=0.0, second=1.0, objects=4):
    """The tallies of Gaussian objects with exact posteriors whose variance is `spread` times the right one."""
    exact = GaussianDenoiser(PROCESS, spectrum=SPECTRUM)
    stronger = replace(PROCESS, pairing=replace(PROCESS.pairing, law=_times(PROCESS.pairing.law, second**2)))
    laws = Laws(PROCESS, stronger, (SIDE, SIDE), margin=0)
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[laws.reach : -laws.reach, laws.reach : -laws.reach] = True
    parts = []
    for s in range(10, 10 + objects):
        u, z = truth(s), noise("first", s)
        other = shared * z + math.sqrt(1 - shared**2) * noise("second", s)
        y1, y2 = scan_of(u, z), scan_of(u, other, factor=second)
        found = exact.estimate(y1, torch.ones(1, dtype=torch.float64))
        draws = noise_like(y1.expand(K, *y1.shape[1:]), torch.arange(K) + 100 * s, "members", 0)
        errors = torch.cat([found.spread.draw(z[None]) for z in draws])
        members = found.mean + math.sqrt(spread) * errors
        look = {"seed": s, "mean_in_unit": members.mean(0)[0], "unit": "arbitrary"}
        parts.append(laws.look(y1[0, 0], y2[0, 0], members[:, 0], inside, **look))
    return joined(parts, same=False), laws


def _times(law, factor):
    def stronger(basis):
        m = law(basis)
        return m._replace(s2=factor * m.s2)

    return stronger


@pytest.fixture(scope="module")
def right():
    seen, laws = seen_of()
    return figures(seen, laws, "arbitrary", 1.0)


def test_an_exact_posterior_predicts_the_second_scan(right):
    for row in (*right["bands"], *right["classes"], *right["discs"]):
        assert abs(row["ratio"] - 1) < 4 * row["error"], row
    pixels = next(c for c in right["classes"] if c["name"] == "all")
    assert pixels["error"] < 0.01
    assert pixels["coverage"]["0.9"] == pytest.approx(0.9, abs=0.006)
    assert pixels["coverage"]["0.5"] == pytest.approx(0.5, abs=0.01)
    for row in right["discs"][:2]:
        assert row["coverage"]["0.9"] == pytest.approx(0.9, abs=0.025)
    assert [d["mm"] for d in right["discs"]] == list(DISCS)
    assert right["ranks"]["p_value"] > 0.001


def test_the_share_of_the_posterior_is_that_of_the_wiener_filter(right):
    """(1 + 1/K) h^2 V over that plus N, with V = L N / M; band by band on the same filters."""
    laws = Laws(PROCESS, PROCESS, (SIDE, SIDE), margin=0)
    m, L = PROCESS.measurement, SPECTRUM.on(PROCESS.basis)
    posterior = (1 + 1 / K) * m.h**2 * L * m.s2 / (m.h**2 * L + m.s2)
    for band, f in zip(right["bands"], laws.filters, strict=True):
        exact = laws.power(f**2 * posterior)
        assert band["posterior"] == pytest.approx(exact, rel=0.03)
        assert band["noise"] == pytest.approx(laws.power(f**2 * m.s2))
        assert band["share"] == pytest.approx(exact / (exact + band["noise"]), rel=0.03)


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_a_wrong_spread_is_seen_where_there_is_power(right, spread):
    seen, laws = seen_of(spread)
    found = figures(seen, laws, "arbitrary", 1.0)["bands"]
    for wrong, known in zip(found[:2], right["bands"][:2], strict=True):
        assert (wrong["ratio"] - 1) * (1 - spread) > 0
        assert wrong["p_value"] < 5e-3
        assert wrong["spread"] == pytest.approx(known["spread"] / spread, rel=0.2)
        assert wrong["sees"] < 1
    assert found[-1]["sees"] > 1  # and says where it has none
    assert found[-1]["ratio"] == pytest.approx(right["bands"][-1]["ratio"], rel=0.003)


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_shared_noise_is_the_slope(shared):
    seen, laws = seen_of(shared=shared)
    bands = figures(seen, laws, "arbitrary", 1.0)["bands"]
    for band in bands:
        assert band["shared"]["value"] == pytest.approx(shared, abs=4 * band["shared"]["error"] + 1e-9)
    assert bands[0]["shared"]["error"] < 0.5  # where the finite ensemble alone would make a slope near 1
    assert all(b["shared"]["error"] < 0.06 for b in bands[1:])


def test_a_noisier_second_scan_has_its_own_law():
    seen, laws = seen_of(second=2.0)
    found = figures(seen, laws, "arbitrary", 1.0)
    assert all(abs(b["ratio"] - 1) < 4 * b["error"] for b in found["bands"])
    assert not laws.law(2).s2.equal(laws.law(1).s2)


def test_bands_reach_the_corner_and_filters_keep_the_power():
    laws = Laws(PROCESS, PROCESS, (SIDE, SIDE))
    edges = edges_of(PROCESS)
    assert edges[0] == 0
    assert edges[-1] == pytest.approx(math.hypot(0.5, 0.5))
    assert torch.allclose(sum(f**2 for f in laws.filters), torch.ones(laws.basis.shape, dtype=torch.float64))


# ---- scans ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("repeats"))


def scans(seed=3, *, factor=1.0, shared=0.0, roll=0, other=None, second="second"):
    """Two scans in HU = 100 u, cut out of a larger periodic object."""
    process = fourier(Fourier((128, 128)))
    u, z = truth(seed, process) - 0.0, noise("first", seed, process)
    z2 = shared * z + math.sqrt(1 - shared**2) * noise(second, seed, process)
    one = scan_of(u, z, process)
    clean = scan_of(u if other is None else truth(other, process), 0 * z, process)
    two = torch.roll(clean, roll, -1) + scan_of(0 * u, z2, process, factor)
    low = process.basis.inverse(process.measurement.h * 0 * u) - 5  # somewhere below 0 HU
    return [Image(100 * (y + low)[0, :, 16:112, 16:112].float(), "HU", (1.0, 1.0)) for y in (one, two)]


def test_repeats_of_an_object_fit(model, tmp_path):
    found = evaluate_repeats(scans(), model=model, samples=4, steps=1)
    record = found.record
    assert record["verdict"]["title"] == "fits"
    assert record["members"] == 4
    assert max(abs(s) for s in record["places"][0]["shift_px"]) < 0.2
    paths = found.save(tmp_path / "out")
    assert [p.name for p in paths] == ["repeats.json", "repeats.png", "repeats.html", "table.md"]
    saved = json.loads(paths[0].read_text())
    assert saved["bands"][0]["ratio"] == pytest.approx(record["bands"][0]["ratio"])
    assert "only the instrument is tested" in paths[2].read_text()
    with pytest.raises(InputError, match="earlier run"):
        found.save(tmp_path / "out")


def test_more_than_two_scans_are_added(model):
    one, two = scans()
    three = scans(second="third")[1]
    found = evaluate_repeats([one, two, three], model=model, samples=2, steps=1).record
    assert len(found["difference"]) == 2
    assert found["bands"][0]["values"] == 2 * found["pixels"] / 2
    assert found["scans"] == ["scan 1", "scan 2", "scan 3"]


@pytest.mark.parametrize(
    ("given", "title", "words"),
    [
        ({"factor": 1.5}, "no repeats", "noise 1.5"),
        ({"shared": 0.6}, "no repeats", "share noise (correlation 0."),
        ({"factor": 0.6}, "no repeats", "does not hold"),
    ],
)
def test_scans_whose_difference_is_not_their_noise(model, given, title, words):
    found = evaluate_repeats(scans(**given), model=model, samples=2, steps=1).record["verdict"]
    assert found["title"] == title
    assert words in found["text"] or words.replace("does not hold", "would explain") in found["text"]


def test_stated_noise_is_the_law_of_the_second_scan(model):
    found = evaluate_repeats(scans(factor=1.5), model=model, samples=4, steps=1, repeat_noise=1.5)
    assert found.record["verdict"]["title"] == "fits"
    assert "does not hold" in evaluate_repeats(
        scans(factor=1.5), model=model, samples=2, steps=1, repeat_noise=1.2
    ).verdict  # fmt: skip


def test_a_change_of_the_object_is_placed(model):
    one, two = scans()
    values = two.values.clone()
    values[:, 50:60, 40:50] += 300
    found = evaluate_repeats([one, two.with_values(values)], model=model, samples=2, steps=1).record
    assert found["verdict"]["title"] == "no repeats"
    assert "moved or changed" in found["verdict"]["text"]
    place = found["difference"][0]["worst_tile"]
    assert place["p_value"] < 1e-6
    assert abs(place["row"] - 55) <= 8
    assert abs(place["column"] - 45) <= 8


@pytest.mark.parametrize("roll", [1, -7])
def test_a_moved_object_is_refused_with_its_way(model, roll):
    with pytest.raises(InputError, match="moved by") as caught:
        evaluate_repeats(scans(roll=roll), model=model)
    found = [float(w.split(" mm")[0].split()[-1]) for w in caught.value.found.split(" and ")]
    assert found[0] == pytest.approx(0, abs=0.3)
    assert found[1] == pytest.approx(roll, rel=0.35)


def test_another_object_is_refused(model):
    with pytest.raises(InputError, match="second scan of the same object"):
        evaluate_repeats(scans(other=17), model=model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i: replace(i, values=i.values[..., :90]), "as scan 1"),
        (lambda i: replace(i, spacing=(1.2, 1.0)), "on one grid"),
        (lambda i: replace(i, unit="arbitrary"), "'HU', as scan 1"),
    ],
)
def test_scans_on_two_grids_are_refused(model, change, words):
    one, two = scans()
    with pytest.raises(InputError, match=words):
        evaluate_repeats([one, change(two)], model=model)


def test_the_same_scan_twice_is_refused(model):
    one, _ = scans()
    with pytest.raises(InputError, match="once more"):
        evaluate_repeats([one, one], model=model)
    with pytest.raises(InputError, match="at least two"):
        evaluate_repeats([one], model=model)


def test_a_scan_without_a_posterior_is_refused_and_says_why(model):
    one, two = scans()
    with pytest.raises(InputError, match=r"not calibrated because .* times the power"):
        evaluate_repeats([i.with_values(1.5 * i.values + 250) for i in (one, two)], model=model, samples=2)


def test_a_model_of_every_instrument_is_tested_at_the_curves_and_pixels_of_the_scans():
    """It has no law of its own: the noise of the scans is that of the curves that are given, at their spacing."""
    from test_range import curves

    loaded, given, d = open_model("ct"), curves(30, 0.7), 0.7
    basis = Fourier((128, 128), (d, d))
    process = measured(basis, given["mtf"], given["nps"], loaded.intensity.scale)
    prior = loaded.denoiser.spectrum
    u = prior.mean_on(basis) + 0.8 * prior.on(basis).sqrt() * noise("truth", 3, process)
    images = [
        loaded.intensity.decode(scan_of(u, noise(n, 3, process), process, f)[0]).float()
        for n, f in (("a", 1), ("b", 2))
    ]
    one, two = (Image(values, "HU", (d, d)) for values in images)
    found = evaluate_repeats([one, two], model=loaded, samples=3, instant=True, repeat_noise=2.0, **given).record
    assert found["difference"][0]["ratio"] == pytest.approx([1] * 5, rel=0.15)
    assert found["bands"][-1]["high"] == pytest.approx(math.hypot(0.5 / d, 0.5 / d))
    assert found["bands"][-1]["ratio"] == pytest.approx(1, abs=0.1)
    stronger = replace(given["nps"], value=tuple(4 * v for v in given["nps"].value))
    job = Job.of(one, loaded, RestoreOptions(instant=True, **given), "a")
    laws = [_second(loaded, job, None, *other).on((128, 128)).measurement for other in ((stronger, None), (None, 2.0))]
    assert torch.allclose(laws[0].s2, laws[1].s2)
    far = [replace(i, spacing=(2.0, 2.0)) for i in (one, two)]
    with pytest.raises(InputError, match=r"square pixels of 0\.48"):
        evaluate_repeats(far, model=loaded, **given)
    with pytest.raises(InputError, match="noise_map"):
        evaluate_repeats([one, two], model=loaded, noise_map=torch.ones(128, 128), **given)


def test_options_that_cannot_be_meant(model):
    with pytest.raises(InputError, match="above 0"):
        evaluate_repeats(scans(), model=model, repeat_noise=0.0)
    with pytest.raises(InputError, match="point"):
        evaluate_repeats(scans(), model=model, point=True)
    with pytest.raises(InputError, match="repeat_noise"):
        evaluate_repeats(scans(), model=model, repeat_noize=1.0)


def test_two_patients_are_refused(model, tmp_path):
    from importlib import resources

    import pydicom

    from retrodict import read, write
    from retrodict.tasks.demo import SLICES

    like = read(str(resources.files("retrodict") / "assets" / f"{SLICES[0]}.dcm"))
    paths = []
    for k, seed in enumerate((1, 2)):
        values = like.values + 10 * torch.randn(like.values.shape, generator=torch.Generator().manual_seed(seed))
        path = write(like.with_values(values), tmp_path / f"s{k}.dcm", like=like, role="measured", description="x")[0]
        data = pydicom.dcmread(path)
        data.PatientID = f"P{k}"
        data.save_as(path)
        paths.append(path)
    with pytest.raises(InputError, match="the patient of scan 1"):
        evaluate_repeats(paths, model=model)


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command(model, tmp_path):
    for k, image in enumerate(scans(), start=1):
        np.savez(tmp_path / f"scan{k}.npz", hu=image.values[0].numpy(), pixel_spacing_mm=np.array([1.0, 1.0]))
    source, both = model.source, [a for k in (1, 2) for a in ("--repeats", tmp_path / f"scan{k}.npz")]
    done = command_line("evaluate", *both, "-m", source, "--samples", 2, "-o", tmp_path / "out", columns=80)
    assert done.returncode == 0, done.stderr
    assert "discs of 20 mm" in done.stdout
    assert done.stdout.count("fits") >= 1
    again = command_line("evaluate", "--repeats", tmp_path, "-m", source, "-o", tmp_path / "out")
    assert again.returncode == 5
    both = command_line("evaluate", "--repeats", tmp_path, "--truth", tmp_path, "-o", tmp_path / "b")
    assert both.returncode == 2
    alone = command_line("evaluate", "--repeat-noise", 2, "--truth", tmp_path, "--method", "a=b", "-o", tmp_path / "b")
    assert alone.returncode == 2
    assert "--repeat-noise" in alone.stderr
