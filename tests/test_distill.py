"""Distillation: the exact flow map of Gaussian data has nothing to learn, and a linear student finds it."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from models import SPECTRUM, make_model
from retrodict import InputError
from retrodict._check import Recipe, build
from retrodict.bases import Fourier
from retrodict.denoisers.flow_map import FlowMap, widened
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.model import Intensity, ModelSpec, load_model, save_model
from retrodict.nets import NETS, network
from retrodict.processes import PROCESSES
from retrodict.processes.observation import noise_like
from retrodict.processes.recipes import process_to_recipe
from retrodict.samplers.loop import sample
from retrodict.samplers.plan import make_grid
from retrodict.tasks.diagnose import diagnose
from retrodict.tasks.distill import distill
from retrodict.tasks.distill_methods import few_calls, objective
from retrodict.tasks.generate import generate
from retrodict.training.distill import flow_step
from retrodict.training.loop import TrainingOptions, train
from retrodict.training.mmd import mmd_squared

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


@pytest.mark.parametrize("method", ["progressive", "consistency"])
def test_gaussian_data_leave_nothing_to_learn_and_an_item_does_not_know_the_others(method):
    loss = objective(linear(0.0), method, 2)
    keys = list(range(6))
    seeds = torch.tensor(keys)
    assert float(loss(linear(0.0), data(keys), seeds).total.detach().max()) < 1e-18
    every = loss(linear(0.3), data(keys), seeds).total.detach()
    assert float(every.min()) > 1e-6
    alone = loss(linear(0.3), data(keys)[2:3], seeds[2:3]).total.detach()
    assert float((every[2] - alone[0]).abs()) < 1e-12


@pytest.mark.parametrize("method", ["progressive", "consistency"])
def test_a_linear_student_finds_the_exact_map(tmp_path, method):
    student = linear(0.4)
    options = TrainingOptions(steps=60, batch=8, learning_rate=0.06, warmup=1, decay=0.9, ema=0.0, clip=1e9,
                              checkpoint_every=60, validate_every=60)  # fmt: skip
    found = train(student, data, options, tmp_path, objective=objective(linear(0.0), method, 2))
    assert abs(float(next(iter(found.values())))) < 0.02  # of 0.4: Adam circles in


def test_the_steps_of_the_teacher_begin_and_end_as_the_student_s():
    times = objective(linear(0.0), "progressive", 3).keywords["times"]
    assert times[::2].tolist() == pytest.approx(make_grid(linear(0.0).process, 3, "time").tolist())


# ---- maps of any step, and the distance of laws ----------------------------------------------------------------------


class Tilted(nn.Module):
    """The second input times a number, and another for each unit that the end of the step lies further down."""

    def __init__(self, a: float, b: float = 0.0) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))

    def forward(self, x, level):
        return (self.a + self.b * level[:, 1])[:, None, None, None] * x[:, 1:2]


def mapped(a: float, b: float = 0.0) -> FlowMap:
    return FlowMap(network(Tilted(a, b)), PROCESSES["vp"](BASIS), spectrum=SPECTRUM)


def states(times: torch.Tensor) -> torch.Tensor:
    keys = list(range(len(times)))
    process = linear(0.0).process
    white = torch.randn(len(keys), 1, *SIZE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return process.to_coefficients(process.corrupt(data(keys), times, white), times)


@pytest.mark.parametrize("kind", [mapped, linear])
def test_a_step_is_exact_on_gaussian_data_and_a_semigroup_for_every_item_s_own_times(kind):
    t, u, s = (torch.tensor(v, dtype=torch.float64) for v in ([1.0, 0.8, 0.5], [0.6, 0.8, 0.3], [0.0, 0.2, 0.3]))
    w, exact = states(t), kind(0.0)
    once = flow_step(exact, w, t, s)
    assert float((flow_step(exact, flow_step(exact, w, t, u), u, s) - once).detach().abs().max()) < 1e-10
    process, L, mean = exact.process, SPECTRUM.on(BASIS), SPECTRUM.mean_on(BASIS)
    a, b = process.moments(t), process.moments(s)
    psi = ((b.h**2 * L + b.s2) / (a.h**2 * L + a.s2)).sqrt()
    assert float((once - b.h * mean - psi * (w - a.h * mean)).detach().abs().max()) < 1e-10
    assert float((flow_step(exact, w, t, t) - w).detach().abs().max()) < 1e-12  # any map: a step of no length


def test_a_flow_map_bound_to_times_is_that_chain_and_else_the_denoiser():
    times, other = torch.tensor([1.0, 0.4, 0.0], dtype=torch.float64), mapped(0.3, 0.5)
    w = states(torch.ones(2, dtype=torch.float64))
    bound, plan = few_calls(other, times)
    with torch.no_grad():
        x = sample(bound, plan, w, seeds=torch.tensor([1, 2])).x
        by_hand = w
        for t, s in ((1.0, 0.4), (0.4, 0.0)):
            both = (torch.full((2,), v, dtype=torch.float64) for v in (t, s))
            by_hand = flow_step(other, by_hand, *both)
        assert float((x - BASIS.inverse(by_hand)).abs().max()) < 1e-10
        half = torch.full((2,), 0.7, dtype=torch.float64)
        assert torch.equal(bound(x, half), linear(0.3)(x, half))
    assert bound.estimate(x, half).spread is None
    with pytest.raises(InputError, match="fall"):
        other.toward([0.0, 1.0])


@pytest.mark.parametrize("method", ["trajectory", "average_velocity"])
def test_gaussian_data_leave_a_flow_map_nothing_to_learn(method):
    loss, keys = objective(linear(0.0), method, 2), list(range(6))
    found = loss(mapped(0.0), data(keys), torch.tensor(keys)).error.detach()
    assert float(found.max()) < (1e-18 if method == "trajectory" else 1e-6)  # a difference of width 1e-3, squared
    for wrong in ((0.3, 0.0), (0.0, 0.3)):
        every = loss(mapped(*wrong), data(keys), torch.tensor(keys)).total.detach()
        assert float(every.max()) > 1e-3
        alone = loss(mapped(*wrong), data(keys)[2:3], torch.tensor(keys)[2:3]).total.detach()
        assert float((every[2] - alone[0]).abs()) < 1e-12


@pytest.mark.parametrize("method", ["trajectory", "average_velocity"])
def test_a_linear_flow_map_finds_the_exact_one(tmp_path, method):
    student = mapped(0.4, 0.1)
    options = TrainingOptions(steps=50, batch=8, learning_rate=0.06, warmup=1, decay=0.9, ema=0.0, clip=1e9,
                              checkpoint_every=50, validate_every=50)  # fmt: skip
    found = train(student, data, options, tmp_path, objective=objective(linear(0.0), method, 2))
    assert all(abs(float(v)) < 0.06 for v in found.values()), found


def test_the_derivative_of_a_flow_map_at_no_length_is_the_velocity_of_the_denoiser():
    other, t = mapped(0.3, 0.7), torch.full((2,), 0.6, dtype=torch.float64)
    w, step = states(t), 1e-5
    with torch.no_grad():
        moved = (flow_step(other, w, t, t - step) - w) / step
        bound = (flow_step(mapped(0.3), w, t, t - step) - w) / step  # what is told of the end does not matter there
    assert float((moved - bound).abs().max()) < 1e-3 * float(bound.abs().max())


def test_a_network_of_two_times_begins_as_the_denoiser_that_it_was_made_from():
    options = {"ndim": 2, "in_channels": 2, "out_channels": 1, "width": 8, "multipliers": [1]}
    nets = [build(NETS, Recipe("unet", options), "net", level_features=n) for n in (1, 2)]
    for p in nets[0].parameters():
        torch.nn.init.normal_(p, std=0.2)
    nets[1].load_state_dict(widened(nets[0].state_dict(), nets[1].state_dict()))
    x, level = torch.randn(2, 2, 8, 8), torch.randn(2, 1)
    with torch.no_grad():
        one, two = nets[0](x, level), nets[1](x, torch.cat([level, torch.randn(2, 1)], 1))
    assert torch.allclose(one, two, atol=1e-6)


def test_the_distance_of_two_gaussian_laws_is_the_published_one():
    d, a, b = 32, 1.0, 1.44
    generator = torch.Generator().manual_seed(0)
    x, y = (v**0.5 * torch.randn(3000, d, generator=generator, dtype=torch.float64) for v in (a, b))
    assert float(mmd_squared(x, y)) == pytest.approx(3 * (a - b) ** 2 / d, rel=0.12)
    assert abs(float(mmd_squared(x[:1500], x[1500:]))) < 1e-3
    pair = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [3.0, 1.0]])
    k = [[(float(f @ g) / 2 + 1) ** 3 for g in (*pair[0], *pair[1])] for f in (*pair[0], *pair[1])]
    by_hand = k[0][1] + k[2][3] - 2 * (k[0][2] + k[0][3] + k[1][2] + k[1][3]) / 4
    assert float(mmd_squared(*pair)) == pytest.approx(by_hand, rel=1e-6)


def test_the_gradient_of_a_chain_is_that_of_finite_differences():
    loss, keys = objective(linear(0.0), "mmd", 2), list(range(5))

    def at(a: float) -> tuple[torch.Tensor, NetDenoiser]:
        student = linear(a)
        return loss(student, data(keys), torch.tensor(keys)).total.mean(), student

    value, student = at(0.2)
    value.backward()
    (p,) = student.net.parameters()
    found = (at(0.2 + 1e-5)[0].item() - at(0.2 - 1e-5)[0].item()) / 2e-5
    assert float(p.grad) == pytest.approx(found, rel=1e-6)
    with pytest.raises(InputError, match="at least 2"):
        loss(linear(0.0), data([1]), torch.tensor([1]))


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


@pytest.mark.parametrize(
    ("method", "calls"),
    [("progressive", 2), ("consistency", 1), ("trajectory", 2), ("average_velocity", 3), ("mmd", 2)],
)
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
    if method in ("trajectory", "average_velocity"):
        assert generate(made.path, 1, steps=4).record["calls"] == 4
        with pytest.raises(InputError, match="from 1 to 4"):
            generate(made.path, 1, steps=5)
    else:
        with pytest.raises(InputError, match="its own times"):
            generate(made.path, 2, steps=3)
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
