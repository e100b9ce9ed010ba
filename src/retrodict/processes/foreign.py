"""Noise schedules as other libraries write them: `scheduler_config.json` in, ours out; nothing of theirs is imported.

Three conventions cover public checkpoints: a table of N discrete steps (variance preserving), plain noise of standard
deviation sigma with the preconditioning of Karras et al. 2022, and the straight line of flow matching.  What a file
says about sampling alone (solver, clipping, thresholding) is named in `Foreign.ignored`: rules of this package do that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, read_json
from retrodict.bases import Basis
from retrodict.processes.convert import log_snr, require_scalar
from retrodict.processes.discrete import BETAS, discrete
from retrodict.processes.process import Process
from retrodict.processes.scalar import edm, rectified_flow

__all__ = ["Foreign", "foreign_schedule", "scheduler_config", "sigmas"]

Kind = Literal["discrete", "edm", "flow"]


class Known(NamedTuple):
    """A class of schedulers: convention, spacing of timesteps, whether it places n + 1 of them and drops one, rates."""

    kind: Kind
    spacing: str = "leading"
    extra: bool = False
    first: float = 1e-4
    last: float = 0.02


_MULTISTEP = Known("discrete", "linspace", True)
_SIGMAS = Known("discrete", "linspace")

SCHEDULERS: dict[str, Known] = {
    "DDPMScheduler": Known("discrete"),
    "DDIMScheduler": Known("discrete"),
    "DDPMParallelScheduler": Known("discrete"),
    "DDIMParallelScheduler": Known("discrete"),
    "PNDMScheduler": Known("discrete"),
    "EulerDiscreteScheduler": _SIGMAS,
    "EulerAncestralDiscreteScheduler": _SIGMAS,
    "LMSDiscreteScheduler": _SIGMAS,
    "HeunDiscreteScheduler": _SIGMAS._replace(first=0.00085, last=0.012),
    "KDPM2DiscreteScheduler": _SIGMAS._replace(first=0.00085, last=0.012),
    "KDPM2AncestralDiscreteScheduler": _SIGMAS._replace(first=0.00085, last=0.012),
    "DPMSolverMultistepScheduler": _MULTISTEP,
    "DPMSolverSinglestepScheduler": _MULTISTEP,
    "DEISMultistepScheduler": _MULTISTEP,
    "UniPCMultistepScheduler": _MULTISTEP,
    "EDMEulerScheduler": Known("edm"),
    "EDMDPMSolverMultistepScheduler": Known("edm"),
    "FlowMatchEulerDiscreteScheduler": Known("flow"),
    "FlowMatchHeunDiscreteScheduler": Known("flow"),
}
"""Schedulers whose convention is known, by the class name in the file."""

INSTEAD = {
    "ScoreSdeVeScheduler": "Its network returns a score: FunctionDenoiser(f, ve(basis)) with D = x + s^2 score.",
    "LCMScheduler": "Its network was distilled to jump: it is no E[x_0 | x_t]; use the network it came from.",
    "TCDScheduler": "Its network was distilled to jump: it is no E[x_0 | x_t]; use the network it came from.",
    "CMStochasticIterativeScheduler": "A consistency network is no E[x_0 | x_t]; use the network it came from.",
}

PREDICTED = {
    "discrete": {"epsilon": "eps", "sample": "data", "v_prediction": "q"},
    "edm": {"epsilon": "edm", "v_prediction": "edm_negative"},
    "flow": {"flow_prediction": "flow"},
}
"""What a network says, by convention and the name in the file, in the words of `retrodict.denoisers.foreign`."""

SPACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
SAMPLING = ("clip_sample", "thresholding", "solver_order", "algorithm_type", "variance_type", "stochastic_sampling")


@dataclass(frozen=True)
class Foreign:
    """The schedule of a foreign checkpoint: its process, what its network says, and its names of the times.

    `kind`: "discrete", "edm" or "flow".  `prediction`: see `PREDICTED`.  `steps`: N, training steps.  `ignored`: what
    the file says about sampling alone, by name.
    """

    name: str
    kind: Kind
    process: Process
    prediction: str
    steps: int
    config: Mapping[str, Any]

    @property
    def ignored(self) -> dict[str, Any]:
        """Settings of the foreign solver that have no meaning here."""
        return {k: v for k, v in self.config.items() if k in (*SAMPLING, *SPACED) and v not in (None, False)}

    def timesteps(self, t: Tensor) -> Tensor:
        """What the network is told at times `(B,)`, float64: t N - 1 (discrete, not below 0), log(sigma)/4, or t N."""
        if self.kind == "edm":
            return -log_snr(self.process, t) / 4
        return t * self.steps if self.kind == "flow" else (t * self.steps - 1).clamp_min(0.0)

    def times(self, timesteps: Tensor) -> Tensor:
        """Times of timesteps `(n,)`, float64; exact at the discrete ones: (n + 1)/N."""
        steps = timesteps.double()
        if self.kind == "edm":
            return torch.exp(4 * steps) / float(self.config.get("sigma_max", 80.0))
        return steps / self.steps if self.kind == "flow" else (steps + 1) / self.steps

    def grid(self, count: int) -> Tensor:
        """The times `(count + 1,)` that the foreign scheduler visits in `count` steps, then its end; for `make_plan`.

        discrete: `timestep_spacing` "leading", "trailing" or "linspace" with `steps_offset`, as its file says, ended at
        t = 0, or at the first step of the table without `set_alpha_to_one`.  edm: rho or exponential.  flow: the
        shifted line, shift x / (1 + (shift - 1) x).  Leading times do not begin at t = 1, where a run starts: its first
        step then goes from t = 1 to the first of them, so a time more is returned.
        """
        if not (isinstance(count, int) and count >= 1):
            raise InputError("steps", count, "a whole number of at least 1")
        other = [k for k in SPACED if self.config.get(k)]
        if other:
            raise InputError(other[0], True, "a spacing of the timesteps", 'Use make_grid(process, n, "rho").')
        body = {"discrete": self._table, "edm": self._sigmas, "flow": self._shifted}[self.kind](count)
        start = torch.ones(1 if float(body[0]) < 1 else 0, dtype=torch.float64, device="cpu")
        return torch.cat([start, body])

    def _table(self, count: int) -> Tensor:
        known, n = SCHEDULERS[self.name], self.steps
        if count > n - known.extra:
            raise InputError("steps", count, f"at most {n - known.extra}: the network knows {n} steps")
        spacing, offset = self.config.get("timestep_spacing", known.spacing), int(self.config.get("steps_offset", 0))
        more = count + known.extra
        if spacing == "leading":
            visited = torch.arange(more, device="cpu") * (n // more) + offset
        elif spacing == "trailing":
            visited = (n - torch.arange(count, device="cpu") * (n / count)).round().flip(0) - 1
        elif spacing == "linspace":
            visited = torch.linspace(0, n - 1, more, dtype=torch.float64, device="cpu").round()
        else:
            raise InputError("timestep_spacing", repr(spacing), "leading, trailing or linspace")
        visited = visited.flip(0)[:count]
        times = self.times(visited.clamp_max(n - 1))
        whole = self.config.get("set_alpha_to_one", True) and self.config.get("final_sigmas_type") != "sigma_min"
        end = 0.0 if whole else 1 / n
        return torch.cat([times, torch.tensor([end], dtype=torch.float64, device="cpu")]) if times[-1] > end else times

    def _sigmas(self, count: int) -> Tensor:
        low, high = (float(self.config.get(k, d)) for k, d in (("sigma_min", 0.002), ("sigma_max", 80.0)))
        rho, ramp = float(self.config.get("rho", 7.0)), torch.linspace(0, 1, count, dtype=torch.float64, device="cpu")
        if self.config.get("sigma_schedule", "karras") == "karras":
            sigma = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        else:
            sigma = torch.exp(math.log(high) + ramp * math.log(low / high))
        times = sigma / high
        times[0] = 1.0
        last = self.config.get("final_sigmas_type", "zero") == "zero"
        return torch.cat([times, torch.zeros(int(last), dtype=torch.float64, device="cpu")])

    def _shifted(self, count: int) -> Tensor:
        shift = float(self.config.get("shift", self.config.get("flow_shift", 1.0)))
        # public code draws its line down to 1/N, which it has shifted once already where the shift is in the file
        least = 1 / self.steps if self.config.get("use_dynamic_shifting") else shift / (self.steps + shift - 1)
        x = torch.linspace(1.0, least, count, dtype=torch.float64, device="cpu")
        return torch.cat([shift * x / (1 + (shift - 1) * x), torch.zeros(1, dtype=torch.float64, device="cpu")])


# ---- in --------------------------------------------------------------------------------------------------------------


def foreign_schedule(config: Mapping[str, Any] | Path | str, basis: Basis, mu: float | None = None) -> Foreign:
    """The schedule of a `scheduler_config.json`, or of its content, on a basis.

    Known are the classes of `SCHEDULERS`, prediction types "epsilon", "sample", "v_prediction" and "flow_prediction",
    the rates of `BETAS` or `trained_betas`, `rescale_betas_zero_snr`, and shifted flow matching; `mu` is the log of the
    shift where the file leaves it to the size of the image.  Raises `InputError` for any other convention, by name.
    """
    where = "scheduler_config"
    if isinstance(config, str | Path):
        where, config = str(config), read_json(config, "a scheduler_config.json")
    name = config.get("_class_name")
    if name not in SCHEDULERS:
        hint = INSTEAD.get(str(name), "Write the network as FunctionDenoiser(f, process), with f(x_t, t) -> E[x_0].")
        raise InputError(f"{where}: _class_name", repr(name), f"one of {', '.join(SCHEDULERS)}", hint)
    kind: Kind = SCHEDULERS[name].kind
    given = config.get("prediction_type", "flow_prediction" if kind == "flow" else "epsilon")
    if kind == "discrete" and (given == "flow_prediction" or config.get("use_flow_sigmas")):
        kind, given = "flow", "flow_prediction"
    if given not in PREDICTED[kind]:
        wanted = f"one of {', '.join(PREDICTED[kind])} for {name}"
        raise InputError(f"{where}: prediction_type", repr(given), wanted, _by_hand(given))
    steps = config.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or steps < 3:
        raise InputError(f"{where}: num_train_timesteps", repr(steps), "a whole number of at least 3")
    make = {"discrete": _discrete, "edm": _edm, "flow": _flow}[kind]
    process, settled = make(dict(config), basis, where, mu)
    prediction = PREDICTED[kind][given]
    if prediction == "eps" and process.erases(torch.ones(1, dtype=torch.float64, device="cpu")):
        raise InputError(
            f"{where}: prediction_type",
            "'epsilon' with a terminal signal of zero",
            "v_prediction or sample: the noise says nothing of an image that is gone",
        )
    return Foreign(name, kind, process, prediction, steps, settled)


def _by_hand(given: object) -> str:
    """What would do for a prediction that a scheduler does not name."""
    return f"If {given!r} has a formula for E[x_0 | x_t], write it as FunctionDenoiser(f, process)."


def _discrete(config: dict[str, Any], basis: Basis, where: str, mu: float | None) -> tuple[Process, dict[str, Any]]:
    known, betas = SCHEDULERS[config["_class_name"]], config.get("trained_betas")
    schedule = config.get("beta_schedule", "linear")
    if betas is None and schedule not in BETAS:
        hint = "Give its rates as trained_betas."
        raise InputError(f"{where}: beta_schedule", repr(schedule), f"one of {', '.join(BETAS)}", hint)
    for name in ("snr_shift_scale",):
        if config.get(name) not in (None, 1, 1.0):
            raise InputError(f"{where}: {name}", config[name], "none of it", "Give the shifted rates as trained_betas.")
    process = discrete(
        basis,
        schedule if betas is None else "linear",
        config.get("num_train_timesteps", 1000),
        config.get("beta_start", known.first),
        config.get("beta_end", known.last),
        bool(config.get("rescale_betas_zero_snr", False)),
        betas,
    )
    return process, config


def _edm(config: dict[str, Any], basis: Basis, where: str, mu: float | None) -> tuple[Process, dict[str, Any]]:
    if config.get("sigma_schedule", "karras") not in ("karras", "exponential"):
        raise InputError(f"{where}: sigma_schedule", repr(config["sigma_schedule"]), "karras or exponential")
    for name, default in (("sigma_min", 0.002), ("sigma_max", 80.0), ("sigma_data", 0.5), ("rho", 7.0)):
        value = config.get(name, default)
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise InputError(f"{where}: {name}", repr(value), "a positive number")
    return edm(basis, float(config.get("sigma_max", 80.0))), config


def _flow(config: dict[str, Any], basis: Basis, where: str, mu: float | None) -> tuple[Process, dict[str, Any]]:
    if config.get("use_dynamic_shifting"):
        if mu is None:
            hint = "Give mu, as the pipeline of the checkpoint computes it for your size of image."
            raise InputError(f"{where}: use_dynamic_shifting", True, "a shift that is known", hint)
        if config.get("time_shift_type", "exponential") != "exponential":
            found = repr(config["time_shift_type"])
            raise InputError(f"{where}: time_shift_type", found, "exponential", "Give {shift}.", shift=math.exp(mu))
        config = {**config, "shift": math.exp(mu)}
    for name in ("invert_sigmas", "shift_terminal"):
        if config.get(name):
            hint = "Write the times yourself and give them to make_plan: t is sigma."
            raise InputError(f"{where}: {name}", repr(config[name]), "none of it", hint)
    return rectified_flow(basis), config


# ---- out -------------------------------------------------------------------------------------------------------------


def scheduler_config(process: Process, steps: int = 1000, prediction: str = "epsilon") -> dict[str, Any]:
    """A scalar process of ours as the content of a `scheduler_config.json` with `trained_betas`, for DDIM and others.

    a_n = 1/(1 + r(t_n)), t_n = (n + 1)/steps, beta_n = 1 - a_n/a_(n-1): the variance-preserving process of equal clock.
    Its states are ours times sqrt(a)/h, 1 for VP, cosine and trigonometric; a network of ours is told the time
    (n + 1)/steps.  The clock has to rise from t_1 on.
    """
    require_scalar(process)
    if prediction not in PREDICTED["discrete"]:
        raise InputError("prediction", repr(prediction), f"one of {', '.join(PREDICTED['discrete'])}")
    process.require_markov("scheduler_config")
    t = torch.arange(1, steps + 1, dtype=torch.float64, device="cpu") / steps
    level = log_snr(process, t).cpu()
    log_gain = -torch.nn.functional.softplus(-2 * level)  # log a = -log(1 + e^(-2 l))
    before = torch.cat([torch.zeros(1, dtype=torch.float64, device="cpu"), log_gain[:-1]])
    betas = -torch.expm1(log_gain - before)
    if prediction == "epsilon" and float(betas[-1]) == 1:
        raise InputError("prediction", "'epsilon' with a terminal signal of zero", "v_prediction or sample")
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": steps,
        "beta_schedule": "linear",
        "trained_betas": betas.tolist(),
        "prediction_type": prediction,
        "timestep_spacing": "trailing",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 0,
    }


def sigmas(process: Process, times: Tensor) -> Tensor:
    """Noise levels s/h `(n,)` of a scalar process at times `(n,)`, as samplers in sigma want them.

    Their states are ours over h.  Infinite where h = 0.
    """
    require_scalar(process)
    return torch.exp(-log_snr(process, times))
