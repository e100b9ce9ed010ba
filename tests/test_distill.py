"""Distillation: the exact flow map of Gaussian data has nothing to learn, and a linear student finds it."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from models import SPECTRUM, make_model
from retrodict import InputError
from retrodict.bases import Fourier
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.model import Intensity, ModelSpec, load_model, save_model
from retrodict.nets import network
from retrodict.processes import PROCESSES
from retrodict.processes.observation import noise_like
from retrodict.processes.recipes import process_to_recipe
from retrodict.samplers.plan import make_grid
from retrodict.tasks.diagnose import diagnose
from retrodict.tasks.distill import _leap, _leaps, _objective, distill
from retrodict.tasks.generate import generate
from retrodict.training.distill import leap
from retrodict.training.loop import TrainingOptions, train

SIZE = (8, 8)
BASIS = Fourier(SIZE)


class Scaled(nn.Module):
    """A number times the second input, the noise estimate: a linear student that has one thing to learn."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x, level):
        return self.a * x[:, 1:2]


def linear(a: float) -> NetDenoiser:
    return NetDenoiser(network(Scaled(a)), PROCESSES["vp"](BASIS), spectrum=SPECTRUM)


def data(keys) -> torch.Tensor:
    white = noise_like(torch.zeros(len(keys), 1, *SIZE, dtype=torch.float64), torch.tensor(keys), "data", 0)
    return BASIS.inverse(SPECTRUM.mean_on(BASIS) + SPECTRUM.on(BASIS).sqrt() * BASIS.forward(white))


def test_a_leap_on_gaussian_data_is_the_exact_flow_map():
    denoiser = linear(0.0)
    process, L, mean = denoiser.process, SPECTRUM.on(BASIS), SPECTRUM.mean_on(BASIS)
    one = torch.tensor([0.9], dtype=torch.float64)
    w = process.to_coefficients(process.corrupt(data([1, 2]), one, data([3, 4])), one)
    for s in (0.9 - 1e-9, 0.4, 0.0):
        a, b = process.moments(one), process.moments(torch.tensor([s], dtype=torch.float64))
        psi = ((b.h**2 * L + b.s2) / (a.h**2 * L + a.s2)).sqrt()
        exact = b.h * mean + psi * (w - a.h * mean)
        found = leap(denoiser, _leap(denoiser, 0.9, s), w)
        assert float((found - exact).detach().abs().max()) < 1e-10  # at s = t the identity
        through = leap(denoiser, _leap(denoiser, 0.9, 0.95 * s), w) if s else None
        if through is not None:  # a semigroup
            other = leap(denoiser, _leap(denoiser, s, 0.95 * s), found)
            assert float((through - other).detach().abs().max()) < 1e-10


@pytest.mark.parametrize("method", ["progressive", "consistency"])
def test_gaussian_data_leave_nothing_to_learn_and_an_item_does_not_know_the_others(method):
    objective = _objective(linear(0.0), method, 2)
    keys = list(range(6))
    seeds = torch.tensor(keys)
    assert float(objective(linear(0.0), data(keys), seeds).total.detach().max()) < 1e-18
    every = objective(linear(0.3), data(keys), seeds).total.detach()
    assert float(every.min()) > 1e-6
    alone = objective(linear(0.3), data(keys)[2:3], seeds[2:3]).total.detach()
    assert float((every[2] - alone[0]).abs()) < 1e-12


@pytest.mark.parametrize("method", ["progressive", "consistency"])
def test_a_linear_student_finds_the_exact_map(tmp_path, method):
    student = linear(0.4)
    options = TrainingOptions(steps=60, batch=8, learning_rate=0.06, warmup=1, decay=0.9, ema=0.0, clip=1e9,
                              checkpoint_every=60, validate_every=60)  # fmt: skip
    found = train(student, data, options, tmp_path, objective=_objective(linear(0.0), method, 2))
    assert abs(float(next(iter(found.values())))) < 0.02  # of 0.4: Adam circles in


def test_the_steps_of_the_teacher_begin_and_end_as_the_student_s():
    objective = _objective(linear(0.0), "progressive", 3)
    coarse, fine = objective.keywords["coarse"], objective.keywords["fine"]
    assert [row.t for row in coarse] == make_grid(linear(0.0).process, 3, "time")[:-1].tolist()
    for row, pair in zip(coarse, fine, strict=True):
        assert (pair[0].t, pair[1].s) == pytest.approx((row.t, row.s))
        assert pair[0].s == pytest.approx(pair[1].t)
    assert _leaps(linear(0.0), make_grid(linear(0.0).process, 1, "time"))[0].size > 0


# ---- the task --------------------------------------------------------------------------------------------------------

CONFIG = """
name: tiny
spacing: [1.0, 1.0]
intensity: {unit: HU, scale: 200.0, offset: 0.0}
process: {name: vp}
network: {name: unet, options: {width: 8, multipliers: [1]}}
bands: 0
data: {simulated: {images: 3, side: 32}, validation: 0.34, patch: [16, 16]}
training: {steps: 1}
"""


def saved(folder, **card):
    """A generator of random weights, with a card."""
    spec = ModelSpec(
        process=process_to_recipe(PROCESSES["vp"](Fourier((16, 16)))),
        network={"name": "unet", "options": {"width": 8, "multipliers": [1]}},
        spectrum=SPECTRUM.to_json(),
        intensity=Intensity("HU", 200.0, 0.0),
        spacing=(1.0, 1.0),
        size=(16, 16),
        card=card,
    )
    denoiser = spec.build("test")
    for i, p in enumerate(denoiser.net.parameters()):
        generator = torch.Generator().manual_seed(i)
        p.data = 0.05 * torch.randn(p.shape, generator=generator)
    save_model(spec, denoiser.net.state_dict(), folder / "teacher")
    (folder / "tiny.yaml").write_text(CONFIG)
    return folder / "teacher", folder / "tiny.yaml"


@pytest.mark.parametrize(("method", "calls"), [("progressive", 2), ("consistency", 1)])
def test_a_student_is_written_judged_and_used_at_its_own_times_alone(tmp_path, method, calls):
    teacher, config = saved(tmp_path, name="t")
    made = distill(teacher, config, tmp_path / "student", method=method, calls=calls, steps=2, batch=2, threads=1)
    record = json.loads((tmp_path / "student.distill.json").read_text())
    assert record["kind"] == "point"
    assert record["teacher_many"]["distance"] == 0
    assert record["after"]["distance"] != record["before"]["distance"]
    assert len(record["after"]["variance"]) == 4
    assert load_model(made.path).spec.card["distilled"]["calls"] == calls
    drawn = generate(made.path, 2)
    assert (drawn.record["calls"], drawn.record["spread"]) == (calls, "none")
    assert drawn.record["law"].startswith("not calibrated")
    with pytest.raises(InputError, match="its own times"):
        generate(made.path, 2, rule="matched")
    with pytest.raises(InputError, match="no score"):
        diagnose(made.path)
    with pytest.raises(InputError, match="distilled already"):
        distill(made.path, config, tmp_path / "again", steps=1)
    with pytest.raises(InputError, match="there already"):
        distill(teacher, config, tmp_path / "student", steps=1)


def test_what_cannot_be_distilled_is_refused_by_name(tmp_path):
    teacher, config = saved(tmp_path)
    with pytest.raises(InputError, match="card"):
        distill(teacher, config, tmp_path / "student")
    teacher, config = saved(tmp_path, name="t")
    for options, field in (({"calls": 5}, "calls"), ({"method": "guess"}, "method"), ({"steps": 0}, "steps"),
                           ({"method": "consistency", "calls": 2}, "calls")):  # fmt: skip
        with pytest.raises(InputError, match=field):
            distill(teacher, config, tmp_path / "student", **options)
    (tmp_path / "restores").mkdir()
    make_model(tmp_path / "restores")
    record = json.loads((tmp_path / "restores" / "model.json").read_text())
    (tmp_path / "restores" / "model.json").write_text(json.dumps({**record, "card": {"name": "x"}}))
    with pytest.raises(InputError, match="restores"):
        distill(tmp_path / "restores" / "model", config, tmp_path / "student")
