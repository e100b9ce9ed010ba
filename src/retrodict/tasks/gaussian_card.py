"""The Gaussian card of every process and sampler against the exact answer; no network and no Monte Carlo.

Setup U, unconditional: four independent coefficients N(m, L), from the exact law at t = 1 to that at the end.
Setup R, restoration: stationary Gaussian data with a power-law spectrum, measured through MTF and NPS of eqs. 29-30
(Tivnan et al. 2023), restored from one fixed measurement y; the exact answer is the posterior, per coefficient
K = L a/(a^2 L + S), V = L S/(a^2 L + S) (spec-inverse 4.1).

A record is a plain dictionary that JSON can hold:

- setup, library, process, conditioning, sampler, steps, nfe, default (the default number of steps of the rule?);
- gain, variance: ratios to the exact ones, a list over the four coefficients (U) or over radial bands (R); an entry is
  None where it has no value.  gain in R is the regression of the mean on the exact posterior mean over measurements,
  in U the mean over the exact mean;
- gain_se, variance_se: standard errors of a Monte Carlo estimate, None for the exact cards;
- worst_gain, worst_variance: the entries farthest from 1;
- documented: said to be a posterior sampler; verdict: "posterior" (R) or "calibrated" (U) within 2 % of the gain and
  5 % of the variance in every entry, "point" without any spread, "not calibrated", "undefined" or "failed", with a
  reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, Recipe, build, choice
from retrodict._output import write_file
from retrodict.bases import Cosine, Fourier, Wavelet
from retrodict.bases.curve import Curve
from retrodict.bases.spectrum import Spectrum
from retrodict.processes import PROCESSES
from retrodict.processes.fourier import ct_filters
from retrodict.processes.observation import wiener
from retrodict.processes.process import Process
from retrodict.processes.recipes import external
from retrodict.processes.wavelet import WAVELET_PROCESSES
from retrodict.samplers import RULES, make_plan
from retrodict.samplers.card import gaussian_card as card_of
from retrodict.samplers.card import posterior_card
from retrodict.samplers.plan import make_grid

__all__ = [
    "GAIN_LIMIT",
    "STEPS",
    "Setup",
    "card_restoration",
    "card_unconditional",
    "gaussian_card",
    "judge",
    "read_json",
    "restoration_setup",
    "unconditional_setup",
    "write_json",
]


Record = dict[str, Any]

Options = Mapping[str, Any]

NO_OPTIONS: Options = MappingProxyType({})


STEPS = (1, 4, 8, 16, 32, 64)


GAIN_LIMIT, VARIANCE_LIMIT = 0.02, 0.05


BANDS = 5


class Setup(NamedTuple):
    """What is restored or generated: mean and variance of every coefficient, and its groups.

    `parts` are boolean masks or indices over the coefficients, `labels` say what each is.
    """

    mean: Tensor
    spectrum: Tensor
    weight: Tensor
    parts: list[Tensor]
    labels: list[str]


# ---- the two setups -------------------------------------------------------------------------------------------------


def unconditional_setup() -> Setup:
    """Four independent coefficients with means (0.5, -1, 2, 0) and variances (0.04, 0.25, 1, 4)."""
    mean = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64, device="cpu")
    variance = torch.tensor([0.04, 0.25, 1.0, 4.0], dtype=torch.float64, device="cpu")
    parts = [torch.arange(4, device="cpu") == i for i in range(4)]
    labels = [f"m {m:g}, L {v:g}" for m, v in zip(mean.tolist(), variance.tolist(), strict=True)]
    return Setup(mean, variance, torch.ones(4, dtype=torch.float64, device="cpu"), parts, labels)


def restoration_setup(size: int = 32) -> tuple[Setup, Process]:
    """Power-law data on a size x size grid of 1 mm, and the instrument (Fourier diffusion, eqs. 25-34).

    L(f) = 100 / (1 + (f / 0.02)^2)^(3/2); the signal-to-noise ratio a^2 L / S falls from more than 100 at the lowest
    frequencies to less than 1e-3 at the highest.  Five bands of equal width in |f|.
    """
    basis = Fourier((size, size), (1.0, 1.0))
    spectrum = Spectrum.power_law(0.0, 100.0, 0.02, 3.0).on(basis)
    bands = basis.bands(BANDS)
    labels = [f"{low:.2f}-{high:.2f} /mm" for low, high, _ in bands]
    setup = Setup(torch.zeros_like(spectrum), spectrum, basis.multiplicity(), [b[2] for b in bands], labels)
    return setup, PROCESSES["fourier"](basis)


def _unconditional_process(name: str, options: Options) -> Process | str:
    """Process `name` on four coefficients, or why it has no unconditional card."""
    if name in ("fourier", "measured"):
        return "terminal: it starts at a measurement, so it has no unconditional card"
    # real coefficients that have frequencies
    basis = Wavelet((4,), (1.0,), levels=1, family="haar") if name in WAVELET_PROCESSES else Cosine((4,))
    return build(PROCESSES, Recipe(name, {"conditioning": "none", **options}), "process", basis)


def _restoring_process(name: str, options: Options, instrument: Process) -> Process | str:
    """Process `name` restoring what `instrument` measured, or why it cannot."""
    if name in WAVELET_PROCESSES:
        return "its wavelet basis does not diagonalise the measurement (MTF and NPS are diagonal in Fourier)"
    if name == "measured" and not options:
        return _measured(instrument)
    process = build(PROCESSES, Recipe(name, options), "process", instrument.basis)
    return process if process.pairing.starts else external(process, instrument)


def _measured(instrument: Process) -> Process:
    """The process built from tabulated MTF and NPS curves of the same instrument (eqs. 29-30)."""
    f = torch.linspace(0, 0.75, 301, dtype=torch.float64, device="cpu")
    low, middle, high = ct_filters(f)
    mtf = Curve.isotropic(f, low + 0.5 * middle + 0.1 * high, "1")
    nps = Curve.isotropic(f, 0.1 * low + middle + 0.5 * high, "1 mm^2")
    return PROCESSES["measured"](instrument.basis, mtf, nps)


# ---- cards ----------------------------------------------------------------------------------------------------------


def card_unconditional(
    steps: Sequence[int] | None = STEPS,
    processes: Iterable[str] | None = None,
    rules: Iterable[str] | None = None,
    *,
    options: Options = NO_OPTIONS,
) -> list[Record]:
    """Records of setup U for every process x rule x steps; the default steps of a rule are always included.

    `steps` None or empty gives the default steps alone; `processes` and `rules` restrict the two dictionaries, and
    `options` are those of the processes.
    """
    run = partial(_run_unconditional, setup=unconditional_setup())
    make = partial(_unconditional_process, options=options)
    return _cards("U", "none", make, run, steps, processes, rules)


def _cards(
    setup: str,
    conditioning: str,
    make: Callable[[str], Process | str],
    run: Callable[[Record, Process, str, int], Record],
    steps: Sequence[int] | None,
    processes: Iterable[str] | None,
    rules: Iterable[str] | None,
) -> list[Record]:
    """A record for every process x rule x steps; `make` says why a process has no card, `conditioning` of such ones."""
    records, chosen = [], list(RULES if rules is None else rules)
    for name in PROCESSES if processes is None else processes:
        process = make(name)
        kind = conditioning if isinstance(process, str) else process.pairing.kind
        for rule in chosen:
            head = _head(setup, name, kind, rule)
            if isinstance(process, str):
                records.append(_undefined(head, process))
            else:
                records += [run(head, process, rule, n) for n in _numbers(rule, steps)]
    return records


def _run_unconditional(head: Record, process: Process, rule: str, steps: int, *, setup: Setup) -> Record:
    L = setup.spectrum
    try:
        plan = make_plan(rule, process, make_grid(process, steps, RULES[rule].grid, spectrum=L), L)
    except InputError as error:
        return _undefined({**head, "steps": steps}, str(error))
    unit = card_of(plan, L, torch.ones_like(L))  # linear in the mean, so one unit of it tells all
    (h1, v1), (h0, v0) = (_marginal(process, t, L) for t in (plan.times[0], plan.times[-1]))
    gain = (unit.start * h1 + unit.offset) / h0
    variance = (unit.start**2 * v1 + unit.variance) / v0
    point = bool((variance == 0).all())
    return _finish({**head, "steps": steps, "nfe": plan.nfe}, gain.tolist(), variance.tolist(), point)


def _marginal(process: Process, t: Tensor, spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and variance of the exact law N(h m, h^2 L + s^2) of the (shifted) state at t."""
    m = process.moments(t[None])
    return m.h[0, 0], (m.h**2 * spectrum + m.s2)[0, 0]


def card_restoration(
    steps: Sequence[int] | None = STEPS,
    processes: Iterable[str] | None = None,
    rules: Iterable[str] | None = None,
    size: int = 32,
    options: Options = NO_OPTIONS,
) -> list[Record]:
    """Records of setup R for every process x rule x steps; see `card_unconditional`.

    fourier and measured start at the measurement (terminal); every other process starts from noise and sees the
    measurement (external), so that the variance of its start is part of that of its samples.
    """
    setup, instrument = restoration_setup(size)
    make = partial(_restoring_process, options=options, instrument=instrument)
    return _cards("R", "external", make, partial(_run_restoration, setup=setup), steps, processes, rules)


def _run_restoration(head: Record, process: Process, rule: str, steps: int, *, setup: Setup) -> Record:
    L = setup.spectrum
    try:
        plan = make_plan(rule, process, make_grid(process, steps, RULES[rule].grid, spectrum=L), L)
    except InputError as error:
        return _undefined({**head, "steps": steps}, str(error))
    assert process.measurement is not None
    gain, variance = posterior_card(plan, L)
    K, V = wiener(process.measurement, L)
    end = process.moments(plan.times[-1:])
    exact_gain, exact_variance = (end.h * K)[0, 0], (end.h**2 * V + end.s2)[0, 0]
    if process.anchored:
        gain = gain + end.k[0, 0]
        exact_gain = exact_gain + end.k[0, 0]
    power = process.measurement.h**2 * L + process.measurement.s2
    ratios = [
        _band(gain, exact_gain, variance, exact_variance, power * setup.weight, setup.weight, part)
        for part in setup.parts
    ]
    point = bool((variance == 0).all())
    return _finish(
        {**head, "steps": steps, "nfe": plan.nfe},
        [g for g, _ in ratios],
        [v for _, v in ratios],
        point,
        error={
            "gain": float((gain - exact_gain).abs().max() / exact_gain.abs().max()),
            "variance": float((variance / exact_variance - 1).abs().max()),
        },
    )


def _band(
    gain: Tensor,
    exact_gain: Tensor,
    variance: Tensor,
    exact_variance: Tensor,
    power: Tensor,
    weight: Tensor,
    part: Tensor,
) -> tuple[float, float]:
    """Regression of the mean on the exact mean, and ratio of the summed variances, in one band."""
    g = (power * gain * exact_gain)[part].sum() / (power * exact_gain**2)[part].sum()
    v = (weight * variance)[part].sum() / (weight * exact_variance)[part].sum()
    return float(g), float(v)


# ---- records --------------------------------------------------------------------------------------------------------


def _head(setup: str, process: str, conditioning: str, rule: str) -> Record:
    return {
        "setup": setup,
        "library": "retrodict",
        "process": process,
        "conditioning": conditioning,
        "sampler": rule,
        "documented": RULES[rule].posterior,
    }


def _numbers(rule: str, steps: Sequence[int] | None) -> list[int]:
    wanted = set(steps or ()) | {RULES[rule].steps}
    if min(wanted) < 1:
        raise InputError("steps", min(wanted), "at least 1")
    return sorted(wanted)


def _undefined(head: Record, reason: str) -> Record:
    empty = {"steps": None, "nfe": None, "gain": [], "variance": [], "worst_gain": None, "worst_variance": None}
    tail = {"gain_se": None, "variance_se": None, "default": False, "verdict": "undefined", "reason": reason}
    return {**empty, **head, **tail}


def judge(
    setup: str, gain: Sequence[float | None], variance: Sequence[float | None]
) -> tuple[float | None, float | None, str]:
    """Worst gain, worst variance ratio and verdict of the entries of a card."""
    worst_gain, worst_variance = _worst(gain), _worst(variance)
    if worst_gain is None or worst_variance is None:
        return worst_gain, worst_variance, "failed"
    if max(v for v in variance if v is not None) < 1e-12:
        return worst_gain, worst_variance, "point"
    good = abs(worst_gain - 1) <= GAIN_LIMIT and abs(worst_variance - 1) <= VARIANCE_LIMIT
    return worst_gain, worst_variance, ("posterior" if setup == "R" else "calibrated") if good else "not calibrated"


def _worst(values: Sequence[float | None]) -> float | None:
    finite = [v for v in values if v is not None and math.isfinite(v)]
    if len(finite) < sum(v is not None for v in values) or not finite:
        return None
    return max(finite, key=lambda v: abs(v - 1))


def _finish(
    head: Record, gain: list[float], variance: list[float], point: bool, error: dict[str, float] | None = None
) -> Record:
    worst_gain, worst_variance, verdict = judge(head["setup"], gain, variance)
    reason = "every run gives the same image" if point else ""
    return {
        **head,
        "default": head["steps"] == RULES[head["sampler"]].steps,
        "gain": gain,
        "variance": variance,
        "gain_se": None,
        "variance_se": None,
        "worst_gain": worst_gain,
        "worst_variance": worst_variance,
        "largest_error": error,
        "verdict": verdict,
        "reason": reason,
    }


def gaussian_card(
    steps: Sequence[int] | None = None,
    peers: Path | None = None,
    *,
    processes: Sequence[str] | None = None,
    rules: Sequence[str] | None = None,
    options: Options = NO_OPTIONS,
) -> list[Record]:
    """Records of both setups (steps None: `STEPS`), followed by those of a peers' file where one is given.

    `processes` and `rules` restrict the two dictionaries; `options` are those of the processes.  Raises `InputError`
    where a single rule is not defined for a single process, with the rules that are.
    """
    for where, names, known in (("process", processes, PROCESSES), ("rule", rules, RULES)):
        for name in names or ():
            choice(where, name, known)
    numbers = STEPS if steps is None else tuple(steps)
    chosen: dict[str, Any] = {"processes": processes, "rules": rules, "options": options}
    records = card_unconditional(numbers, **chosen) + card_restoration(numbers, **chosen)
    if rules is not None and len(rules) == 1 and processes is not None and len(processes) == 1:
        _refuse_undefined(records, processes[0], rules[0], options)
    if peers is not None:
        records += [r for r in read_json(peers) if r["library"] != "retrodict"]
    return records


def _refuse_undefined(records: Sequence[Record], process: str, rule: str, options: Options) -> None:
    """Raise where a rule is not defined for a process in either setup, and say which rules are."""
    if any(r["verdict"] != "undefined" for r in records):
        return
    other = card_unconditional((), [process], options=options) + card_restoration((), [process], options=options)
    defined = [name for name in RULES if any(r["sampler"] == name and r["verdict"] != "undefined" for r in other)]
    hint = f"For {process} there are {', '.join(defined)}." if defined else "No rule is defined for it."
    reasons = dict.fromkeys(r["reason"] for r in records if r["steps"] is not None)
    why = "; ".join(reasons) or records[0]["reason"]
    raise InputError("rule", f"{rule!r}, which is not defined for process {process!r}", "one that is", f"{why} {hint}")


def write_json(path: Path, records: Sequence[Record], **about: Any) -> None:
    """Write `{**about, "records": [...]}`."""
    text = json.dumps({**about, "records": list(records)}, indent=1, allow_nan=False)
    write_file(path, (text + "\n").encode())


def read_json(path: Path) -> list[Record]:
    """Records of a file written by `write_json` (or a bare list of them)."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(path, "no file", "a file of records, such as 'make bench-peers' writes") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            path, "a file that is not JSON", "a file of records, such as 'make bench-peers' writes"
        ) from error
    records = content.get("records") if isinstance(content, dict) else content
    needed = {"setup", "library", "process", "sampler", "steps", "gain", "variance", "verdict"}
    if not isinstance(records, list) or not all(isinstance(r, dict) and needed <= set(r) for r in records):
        raise InputError(path, "other content", f"records with {', '.join(sorted(needed))}")
    return records
