"""Schedules and networks of other libraries: their tables and times exactly, their networks under every rule."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch

from retrodict import InputError
from retrodict.bases import Fourier, Pixel
from retrodict.denoisers.denoiser import GaussianDenoiser
from retrodict.denoisers.foreign import Converted, foreign_denoiser
from retrodict.processes import PROCESSES
from retrodict.processes.convert import convert_state
from retrodict.processes.discrete import discrete
from retrodict.processes.foreign import SCHEDULERS, foreign_schedule, scheduler_config, sigmas
from retrodict.processes.fourier import fourier
from retrodict.processes.process import Process
from retrodict.processes.scalar import cosine, edm, rectified_flow, ve, vp
from retrodict.samplers import RULES, make_plan, sample
from retrodict.samplers.card import gaussian_card
from retrodict.samplers.plan import make_grid

B1, B4 = Pixel((1,)), Pixel((4,))
N = 1000
STEPS = torch.arange(N, dtype=torch.float64)
L = torch.tensor([0.04, 0.25, 1.0, 4.0], dtype=torch.float64)


def config(**changes):
    return {"_class_name": "DDIMScheduler", "num_train_timesteps": N, "prediction_type": "epsilon", **changes}


def published(kind):
    """The rates as public code writes them, one by one, in double precision."""
    if kind == "linear":
        return [1e-4 + n / 999 * (0.02 - 1e-4) for n in range(N)]
    if kind == "scaled_linear":
        return [(math.sqrt(1e-4) + n / 999 * (math.sqrt(0.02) - math.sqrt(1e-4))) ** 2 for n in range(N)]
    if kind == "sigmoid":
        return [1e-4 + (0.02 - 1e-4) / (1 + math.exp(6 - 12 * n / 999)) for n in range(N)]

    def gain(x):
        return math.cos((x + 0.008) / 1.008 * math.pi / 2) ** 2

    return [min(1 - gain((n + 1) / N) / gain(n / N), 0.999) for n in range(N)]


def products(betas):
    total, out = 1.0, []
    for beta in betas:
        total *= 1 - beta
        out.append(total)
    return torch.tensor(out, dtype=torch.float64)


# ---- tables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
def test_the_process_is_the_table_at_every_discrete_step(kind):
    found = foreign_schedule(config(beta_schedule=kind), B1)
    m, known = found.process.moments(found.times(STEPS)), products(published(kind))
    assert torch.allclose(m.h.flatten() ** 2, known, rtol=1e-11)
    assert torch.allclose(m.s2.flatten(), 1 - known, rtol=1e-10)
    assert torch.allclose(found.timesteps(found.times(STEPS)), STEPS, atol=1e-9)


def test_a_table_lies_near_its_continuous_process():
    """Rates of 0.1/N to 20/N are VP; the published ones, 1e-4 to 0.02, too. Differences are of first order in 1/N."""
    t = torch.tensor([0.0, 0.1, 0.3333, 0.77777, 1.0], dtype=torch.float64)
    a, b = discrete(B1).moments(t), vp(B1).moments(t)
    assert torch.allclose(a.h, b.h, atol=3e-3)
    finer = discrete(B1, steps=10_000, beta_start=1e-5, beta_end=2e-3).moments(t)
    assert torch.allclose(finer.h, b.h, atol=3e-4)
    assert float(a.s2[0]) == 0


@pytest.mark.parametrize("zero", [False, True])
def test_between_the_steps_the_clock_rises_smoothly(zero):
    process = discrete(B1, zero_terminal_snr=zero)
    t = torch.linspace(0, 1, 7001, dtype=torch.float64)
    m = process.moments(t)
    assert bool((m.s2.flatten().diff() > 0).all())
    assert bool((m.h.flatten().diff() < 0).all())
    assert torch.allclose(m.h**2 + m.s2, torch.ones_like(m.h), atol=1e-15)
    inside = torch.arange(1, 998, dtype=torch.float64) / N  # the rates meet at the knots
    a, b = process.rates(inside - 1e-9).G2, process.rates(inside + 1e-9).G2
    assert torch.allclose(a, b, rtol=1e-4)


def test_zero_terminal_snr_is_the_published_rescaling():
    """Lin et al. 2023, algorithm 1, with the betas that it returns."""
    found = foreign_schedule(config(rescale_betas_zero_snr=True, prediction_type="v_prediction"), B1)
    root = products(published("linear")).sqrt()
    known = (root - root[-1]) * root[0] / (root[0] - root[-1])
    m = found.process.moments(found.times(STEPS))
    assert torch.allclose(m.h.flatten(), known, rtol=1e-10, atol=1e-15)
    assert float(m.h[-1]) == 0
    assert torch.allclose(m.s2.flatten(), 1 - known**2, rtol=1e-9)


def test_given_rates_are_the_table():
    betas = published("squaredcos_cap_v2")
    found = foreign_schedule(config(trained_betas=betas), B1).process
    assert torch.allclose(found.moments(STEPS / N + 1 / N).h.flatten() ** 2, products(betas), rtol=1e-10)


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({"timestep_spacing": "trailing"}, [999, 799, 599, 399, 199]),
        ({"timestep_spacing": "leading"}, [800, 600, 400, 200, 0]),
        ({"timestep_spacing": "leading", "steps_offset": 1}, [801, 601, 401, 201, 1]),
        ({"timestep_spacing": "linspace"}, [999, 749, 500, 250, 0]),
        ({"_class_name": "DPMSolverMultistepScheduler"}, [999, 799, 599, 400, 200]),
        ({"_class_name": "DPMSolverMultistepScheduler", "timestep_spacing": "leading"}, [830, 664, 498, 332, 166]),
    ],
)
def test_the_grid_is_that_of_the_file(changes, known):
    found = foreign_schedule(config(**changes), B1)
    grid = found.grid(5)
    visited = grid[1:-1] if known[0] != 999 else grid[:-1]
    assert torch.allclose(found.timesteps(visited), torch.tensor(known, dtype=torch.float64), atol=1e-9)
    assert float(grid[0]) == 1.0
    assert float(grid[-1]) == 0.0


def test_a_grid_may_end_at_the_first_step():
    grid = foreign_schedule(config(timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False), B1).grid(4)
    assert grid.tolist() == pytest.approx([1.0, 0.752, 0.502, 0.252, 0.002, 0.001])


def test_sigmas_of_edm_and_the_shifted_line():
    found = foreign_schedule({"_class_name": "EDMEulerScheduler", "sigma_max": 80.0}, B1)
    known = [(80 ** (1 / 7) + i / 3 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(4)]
    assert (80 * found.grid(4)).tolist() == pytest.approx([*known, 0.0], rel=1e-12)
    t = found.grid(4)[:-1]
    assert torch.allclose(found.timesteps(t), torch.tensor(known).double().log() / 4, atol=1e-6)
    assert torch.allclose(found.times(found.timesteps(t)), t, rtol=1e-12)
    flow = foreign_schedule({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, B1)
    least = 3e-3 / (1 + 2e-3)
    line = [1 + i / 3 * (least - 1) for i in range(4)]
    assert flow.grid(4).tolist() == pytest.approx([*(3 * x / (1 + 2 * x) for x in line), 0.0], rel=1e-12)
    assert flow.timesteps(torch.tensor([0.25]).double()).tolist() == [250.0]
    dynamic = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    mu = math.log(3.0)
    assert foreign_schedule(dynamic, B1, mu=mu).grid(2).tolist() == pytest.approx([1.0, 3e-3 / 1.002, 0.0], rel=1e-12)


# ---- networks ------------------------------------------------------------------------------------------------------


def exact(process):
    return GaussianDenoiser(process, 0.0, L)


class Trained:
    """The best network for data N(0, L) in a foreign convention: what it is told, and what it says."""

    def __init__(self, kind, alphas):
        self.kind, self.alphas, self.told = kind, alphas, []

    def __call__(self, x, timestep):
        self.told.append(timestep)
        if self.kind in ("edm", "edm_negative"):
            sigma, sd = torch.exp(4 * timestep)[:, None, None], 0.5
            y = x * (sigma**2 + sd**2).sqrt()
            data = L / (L + sigma**2) * y
            out = (data - sd**2 / (sigma**2 + sd**2) * y) * (sigma**2 + sd**2).sqrt() / (sigma * sd)
            return -out if self.kind == "edm_negative" else out
        h, s = self.alphas(timestep)
        data = h * L / (h**2 * L + s**2) * x
        noise = (x - h * data) / s
        answers = {"epsilon": noise, "sample": data, "v_prediction": h * noise - s * data, "flow": noise - data}
        return answers[self.kind]


def table(timestep):
    a = products(published("linear"))[timestep.round().long()][:, None, None]
    return a.sqrt(), (1 - a).sqrt()


def line(timestep):
    s = (timestep / N)[:, None, None]
    return 1 - s, s


FLOW, EDM = {"_class_name": "FlowMatchEulerDiscreteScheduler"}, {"_class_name": "EDMEulerScheduler"}
CASES = {
    "epsilon": (config(), "epsilon", table),
    "sample": (config(prediction_type="sample"), "sample", table),
    "v": (config(prediction_type="v_prediction"), "v_prediction", table),
    "flow": (FLOW, "flow", line),
    "flow of a solver": (
        {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "flow_shift": 3.0},
        "flow",
        line,
    ),
    "edm": (EDM, "edm", None),
    "edm v": ({**EDM, "prediction_type": "v_prediction"}, "edm_negative", None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_network_of_every_convention_is_the_denoiser_that_it_was_trained_to_be(case):
    record, kind, alphas = CASES[case]
    schedule = foreign_schedule(record, B4)
    denoiser = foreign_denoiser(Trained(kind, alphas), schedule)
    t = schedule.grid(6)[:-1][[0, 2, 4]]
    x = torch.randn(3, 1, 4, dtype=torch.float64)
    assert torch.allclose(denoiser(x, t), exact(schedule.process)(x, t), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("rule", ["ddim", "dpmpp2m", "heun"])
def test_a_foreign_network_under_our_rules_gives_the_card(rule):
    schedule = foreign_schedule(config(timestep_spacing="trailing"), B4)
    plan = make_plan(rule, schedule.process, schedule.grid(10), L)
    ones = torch.ones(1, 1, 4, dtype=torch.float64)
    found = sample(foreign_denoiser(Trained("epsilon", table), schedule), plan, ones, seeds=torch.tensor([0])).x
    assert torch.allclose(found[0, 0], gaussian_card(plan, L).start, rtol=1e-8)


def test_a_deterministic_step_is_the_published_one():
    """DDIM of public code: sqrt(a') x_0 + sqrt(1 - a') eps, at the steps that it visits."""
    schedule = foreign_schedule(config(timestep_spacing="trailing"), B4)
    a, network = products(published("linear")), Trained("epsilon", table)
    x = torch.randn(1, 1, 4, dtype=torch.float64)
    ours = sample(
        foreign_denoiser(network, schedule), make_plan("ddim", schedule.process, schedule.grid(5)), x,
        seeds=torch.tensor([0]),
    ).x  # fmt: skip
    for step in (999, 799, 599, 399, 199):
        eps = network(x, torch.tensor([step], dtype=torch.float64))
        data = (x - (1 - a[step]).sqrt() * eps) / a[step].sqrt()
        before = a[step - 200] if step >= 200 else torch.tensor(1.0)
        x = before.sqrt() * data + (1 - before).sqrt() * eps
    assert torch.allclose(ours, x, rtol=1e-8)


def test_a_foreign_network_follows_a_process_of_ours():
    """One trained on a table, on the noise levels of EDM with Heun's rule, at fractions of its steps."""

    def between(timestep):
        m = discrete(B1).moments((timestep + 1) / N)
        return m.h.reshape(-1, 1, 1), m.s2.sqrt().reshape(-1, 1, 1)

    schedule = foreign_schedule(config(), B4)
    target = edm(B4, 100.0)
    denoiser = Converted(foreign_denoiser(Trained("epsilon", between), schedule), target)
    plan = make_plan("heun", target, make_grid(target, 8, "rho", last=2e-4), L)
    ones = torch.ones(1, 1, 4, dtype=torch.float64)
    found = sample(denoiser, plan, ones, seeds=torch.tensor([0])).x
    assert torch.allclose(found[0, 0], gaussian_card(plan, L).start, rtol=1e-7)


def test_whole_steps_are_asked_where_a_network_knows_no_others():
    schedule = foreign_schedule(config(), B4)
    network = Trained("epsilon", table)
    t, x = torch.tensor([0.50037, 1.0], dtype=torch.float64), torch.randn(2, 1, 4, dtype=torch.float64)
    found = foreign_denoiser(network, schedule, whole_steps=True)(x, t)
    assert network.told[-1].tolist() == [499.0, 999.0]
    assert torch.allclose(found, exact(schedule.process)(x, t), rtol=5e-3)  # half a step of the table
    with pytest.raises(InputError, match="discrete steps"):
        foreign_denoiser(network, foreign_schedule(EDM, B4), whole_steps=True)


@pytest.mark.parametrize(
    "wrapped", [lambda x: (x,), lambda x: SimpleNamespace(sample=x), lambda x: torch.cat([x, x], 1)]
)
def test_answers_come_in_several_wrappings(wrapped):
    schedule = foreign_schedule(config(), B4)
    network = Trained("epsilon", table)
    x, t = torch.randn(1, 1, 4, dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    plain = foreign_denoiser(network, schedule)(x, t)
    assert torch.equal(foreign_denoiser(lambda x, n: wrapped(network(x, n)), schedule)(x, t), plain)


@pytest.mark.parametrize("answer", [lambda x, n: 3, lambda x, n: x[:, :, :2], lambda x, n: x.repeat(1, 3, 1)])
def test_an_answer_that_is_no_image_is_refused(answer):
    with pytest.raises(InputError, match="network"):
        foreign_denoiser(answer, foreign_schedule(config(), B4))(torch.zeros(1, 1, 4), torch.tensor([0.5]).double())


# ---- unknown conventions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "_class_name: found None"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "D = x \\+ s\\^2 score"),
        ({"_class_name": "LCMScheduler"}, "distilled"),
        ({"_class_name": "NewScheduler"}, "FunctionDenoiser"),
        (config(prediction_type="noise"), "prediction_type: found 'noise'"),
        ({**EDM, "prediction_type": "sample"}, "prediction_type: found 'sample'"),
        (config(beta_schedule="laplace"), "trained_betas"),
        (config(snr_shift_scale=3.0), "snr_shift_scale"),
        (config(num_train_timesteps="many"), "num_train_timesteps"),
        (config(rescale_betas_zero_snr=True), "v_prediction or sample"),
        (config(trained_betas=[0.1, 1.0, 0.2]), "three or more in"),
        ({**FLOW, "use_dynamic_shifting": True}, "Give mu"),
        ({**FLOW, "invert_sigmas": True}, "invert_sigmas"),
        ({**EDM, "sigma_data": 0}, "sigma_data"),
        ({**EDM, "sigma_schedule": "cosine"}, "karras or exponential"),
    ],
)
def test_an_unknown_convention_is_refused_by_name(record, message):
    with pytest.raises(InputError, match=message):
        foreign_schedule(record, B1)


def test_a_file_is_read_and_named(tmp_path):
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(config(beta_schedule="scaled_linear", clip_sample=True)))
    found = foreign_schedule(path, B1)
    assert found.ignored == {"clip_sample": True}
    path.write_text(json.dumps({"_class_name": "Odd"}))
    with pytest.raises(InputError, match=r"scheduler_config\.json: _class_name"):
        foreign_schedule(path, B1)


def test_a_spacing_that_is_another_rule_is_refused():
    with pytest.raises(InputError, match="use_karras_sigmas"):
        foreign_schedule(config(_class_name="EulerDiscreteScheduler", use_karras_sigmas=True), B1).grid(5)
    with pytest.raises(InputError, match="timestep_spacing"):
        foreign_schedule(config(timestep_spacing="odd"), B1).grid(5)
    with pytest.raises(InputError, match="at most 1000"):
        foreign_schedule(config(), B1).grid(1001)


# ---- ours out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [vp(B1), cosine(B1), ve(B1), edm(B1), PROCESSES["sub_vp"](B1), discrete(B1)])
def test_what_is_written_is_read_again_with_the_same_clock(process):
    record = json.loads(json.dumps(scheduler_config(process)))
    again = foreign_schedule(record, B1)
    t = (STEPS + 1) / N
    a, b = process.clock(t).flatten(), again.process.clock(again.times(STEPS)).flatten()
    assert torch.allclose(a, b, rtol=1e-9)
    x = torch.randn(3, 1, 1, dtype=torch.float64)
    m = process.moments(t[[3, 500, 998]])
    scale = 1 / (m.h**2 + m.s2).sqrt()  # sqrt(a)/h
    assert torch.allclose(convert_state(x, t[[3, 500, 998]], process, again.process)[0], x * scale, rtol=1e-8)


def test_a_process_without_a_signal_at_the_end_is_written_for_predictions_that_know_it():
    record = scheduler_config(rectified_flow(B1), prediction="v_prediction")
    assert record["trained_betas"][-1] == 1.0
    assert float(foreign_schedule(record, B1).process.moments(torch.ones(1)).h) == 0
    with pytest.raises(InputError, match="v_prediction or sample"):
        scheduler_config(rectified_flow(B1))


def test_only_scalar_processes_are_written():
    with pytest.raises(InputError, match="scalar process"):
        scheduler_config(fourier(Fourier((8,))))
    with pytest.raises(InputError, match="never decreases"):
        scheduler_config(Process(lambda basis: lambda t: (1 - 0.5 * t, 0 * t, 0.3 * torch.sin(3 * t)), B1))
    with pytest.raises(InputError, match="prediction"):
        scheduler_config(vp(B1), prediction="score")


def test_sigmas_are_noise_over_gain():
    t = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    assert sigmas(edm(B1, 40.0), t).tolist() == pytest.approx([40.0, 20.0, 0.0])
    assert sigmas(rectified_flow(B1), t).tolist() == pytest.approx([math.inf, 1.0, 0.0])


def test_every_known_scheduler_is_read():
    for name in SCHEDULERS:
        found = foreign_schedule({"_class_name": name}, B1)
        assert found.grid(4)[0] == 1.0
    assert set(RULES) >= {"ddim"}
