"""Whole slices of 512 x 512 pixels: errors of the shipped model drawn by a wavelet cascade, beside its own law of them.

    retrodict fit configs/any-scanner-cascade.yaml --set data.root=DATA --set start_from=ct -o RUN
    python benchmarks/cascade_posterior.py RUN/any-scanner-cascade        (resumed where it was cut short)
    python benchmarks/cascade_posterior.py --docs

The mean and the calibration of the shipped model `ct` are kept; the networks of the scales are trained on the same
patients and instruments.  Measured on the first whole slice of every validation patient who has one, at its
own pixels, by three instruments that are not in the law of the training.

- `Wiener`    the linear estimate under the spectrum of the model.
- `Fourier`   one call of `ct`; members from its law of the error, local in octave bands.
- `Fourier, 4 calls`   members of chains of 4 calls, rule `matched`; the mean is the average of their last images.
- `cascade`   the same call; members drawn scale by scale, of so many steps a scale.

Error: mean square over that of the Wiener filter, of the mean and of the mean of `MEMBERS` members alone.  SSR^2:
squared error over stated variance, and over the squares of the members.  Energy: energy score of the members over that
of the Fourier members (least is best).  Discs: of means over discs of 5 and 10 mm, squared error of the mean over
variance of the members (1 is right).  Bands: mean square of the error in five bands of |f| up to Nyquist over that of
the members, the one farthest from 1.
Lattice: multiply-adds of the networks in calls of `ct`, of the mean and of a member; their CPU
seconds; the largest memory of activations.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from equal_budget import instrument
from intervals import energy_score
from patient_slices import slices, there
from retrodict._output import write_file
from retrodict._random import key
from retrodict.bases import Fourier
from retrodict.denoisers.cascade_posterior import CascadePosterior
from retrodict.denoisers.denoiser import Denoiser, GaussianDenoiser
from retrodict.denoisers.network import NetDenoiser
from retrodict.models.instrument import measured_inside
from retrodict.models.model import Model, load_model, open_model
from retrodict.processes.fourier import measured
from retrodict.samplers.ensemble import SamplingOptions, restore_batch
from retrodict.samplers.instant import beyond, instant
from retrodict.samplers.margin import MARGIN, frame_of
from retrodict.tasks.forecast import _Live
from scanners import SCANNERS, curves
from tables import replace_block, table
from unseen import mean_sd

ROOT = Path(__file__).resolve().parents[1]
OUT, PAGE = ROOT / "benchmarks" / "results" / "cascade_posterior.json", ROOT / "docs" / "experiment-wavelet-cascade.md"
SIDE, MEMBERS, STEPS, CALLS, DISCS, BANDS = 512, 8, (1, 4), 4, (5.0, 10.0), 5
NAMES = ("soft-12", "standard-30", "sharp-60")


class Method(NamedTuple):
    """A denoiser at an instrument; of a cascade the steps of a scale in a member, of a chain its calls."""

    name: str
    denoiser: Denoiser
    steps: int | None = None
    calls: int = 1


def methods(models: dict[str, Model], name: str, spacing: float) -> list[Method]:
    """Those of the table, at an instrument."""
    scanner = SCANNERS[name]
    out = []
    for kind, model in models.items():
        own = model.denoiser
        process = measured(Fourier((SIDE, SIDE), (spacing, spacing)), *curves(scanner, spacing), model.intensity.scale)
        bound = own.at(process)
        if kind == "ct":
            out += [Method("Wiener", GaussianDenoiser(process, spectrum=own.spectrum)), Method("Fourier", bound),
                    Method(f"Fourier, {CALLS} calls", bound, calls=CALLS)]  # fmt: skip
        else:
            assert isinstance(bound, CascadePosterior)
            out += [Method(f"cascade, {n} step{'s' * (n > 1)}", _stepped(bound, n), n) for n in STEPS]
    return out


def _stepped(denoiser: CascadePosterior, steps: int) -> CascadePosterior:
    return replace(denoiser, scale_steps=steps)


# ---- figures of one slice --------------------------------------------------------------------------------------------


def discs(x: Tensor, diameter: float, spacing: float) -> Tensor:
    """Means over discs `(..., n, n)` that lie whole within the image."""
    reach = int(diameter / 2 / spacing)
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64) * spacing
    kernel = (torch.hypot(axis[:, None], axis) <= diameter / 2).to(x)
    flat = x.reshape(-1, 1, *x.shape[-2:])
    return torch.nn.functional.conv2d(flat, (kernel / kernel.sum())[None, None])[:, 0]


def bands(x: Tensor) -> Tensor:
    """Mean power in `BANDS` bands of |f| up to Nyquist, of images `(k, n, n)` under a Hann window."""
    n = x.shape[-1]
    window = torch.hann_window(n, periodic=False, dtype=x.dtype)
    power = torch.fft.rfft2(x * window * window[:, None]).abs().square().mean(0)
    f = torch.hypot(torch.fft.fftfreq(n)[:, None], torch.fft.rfftfreq(n))
    return torch.stack([power[(f >= 0.5 * b / BANDS) & (f < 0.5 * (b + 1) / BANDS)].sum() for b in range(BANDS)])


def figures(found: Any, truth: Tensor, spacing: float) -> dict[str, Any]:
    """Of mean, variance and members against the truth, all in HU `(…, n, n)`."""
    error, members = found["mean"] - truth, found["members"] - found["mean"]
    out: dict[str, Any] = {
        "square": float(error.square().mean()),
        "ssr2": float(error.square().mean() / found["variance"].mean()),
        "drawn": float(members.square().mean() / found["variance"].mean()),
        "of_members": float((found["members"].mean(0) - truth).square().mean()),
        "energy": energy_score(found["members"], truth),
        "bands": (bands(error[None]) / bands(members)).tolist(),
    }
    for d in DISCS:
        means = discs(members, d, spacing).square().mean()
        out[f"disc_{d:g}"] = float(discs(error[None], d, spacing).square().mean() / means)
    return out


def restored(method: Method, y: Tensor, scale: float) -> dict[str, Any]:
    """Mean, variance and members in HU, with the CPU seconds of both."""
    if method.calls > 1:
        return chained(method, y, scale)
    frame = frame_of((SIDE, SIDE), method.denoiser.process.basis, MARGIN[2], method.denoiser.multiple)
    bound = method.denoiser.on(frame.size)
    edge = beyond(bound, frame)
    seeds = torch.tensor([key(0, "member", k) for k in range(MEMBERS)])
    with torch.inference_mode():
        started = time.process_time()
        mean_only = instant(bound, y, frame)
        middle = time.process_time()
        made = instant(bound, y, frame, seeds, edge, whole=False)
        ended = time.process_time()
    assert made.variance is not None
    assert made.members is not None
    seconds = middle - started
    return {
        "mean": mean_only.mean[0, 0].double() * scale,
        "variance": made.variance[0, 0].double() * scale**2,
        "members": made.members[:, 0].double() * scale,
        "seconds": seconds,
        "member_seconds": max(0.0, ended - middle - seconds) / MEMBERS,
    }


def chained(method: Method, y: Tensor, scale: float) -> dict[str, Any]:
    """The same of chains of several calls; all CPU seconds are those of the members, whose mean comes with them."""
    options = SamplingOptions(samples=MEMBERS, steps=method.calls, keep_samples=True)
    started = time.process_time()
    found = restore_batch(method.denoiser, y, options)
    seconds = time.process_time() - started
    assert found.sd is not None
    assert found.samples is not None
    return {
        "mean": found.mean[0, 0].double() * scale,
        "variance": found.sd[0, 0].double().square() * scale**2,
        "members": found.samples[:, 0, 0].double() * scale,
        "seconds": seconds,
        "member_seconds": seconds / MEMBERS,
    }


# ---- cost ------------------------------------------------------------------------------------------------------------


def cost(method: Method) -> dict[str, float]:
    """Multiply-adds of the mean and of a member, and bytes of activations at the peak, of a slice without a margin."""
    if not isinstance(method.denoiser, NetDenoiser):
        return {}
    bound = method.denoiser.on((SIDE, SIDE))
    y, t = torch.zeros(1, 1, SIDE, SIDE), torch.ones(1, dtype=torch.float64)
    with torch.inference_mode(), FlopCounterMode(display=False) as mean:
        found = bound.estimate(y, t)
    assert found.spread is not None
    with torch.inference_mode(), FlopCounterMode(display=False) as member:
        found.spread.draw(torch.zeros(found.spread.fields, 1, 1, SIDE, SIDE))
    each = mean.get_total_flops() / 2
    if method.calls > 1:
        return {"mean": each * method.calls * MEMBERS, "member": each * method.calls, "bytes": 0.0}
    with torch.inference_mode(), _Live() as live:
        bound.estimate(y, t)
    return {"mean": mean.get_total_flops() / 2, "member": member.get_total_flops() / 2, "bytes": float(live.peak)}


# ---- the run -----------------------------------------------------------


def run(path: Path) -> None:
    """Every slice, instrument and method; what is there is kept."""
    torch.set_num_threads(1)
    models = {"ct": open_model("ct", "float32"), "cascade": load_model(path)}
    known: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() else {"rows": [], "cost": {}}
    done = {(r["patient"], r["instrument"], r["method"]) for r in known["rows"]}
    known["steps"] = models["cascade"].spec.card["training"]["steps"]
    seen: set[str] = set()
    for item in slices("validation"):
        if item.patient in seen or tuple(item.image.values.shape[-2:]) != (SIDE, SIDE):
            continue
        seen.add(item.patient)
        truth = item.image.values.reshape(SIDE, SIDE).double().clamp(-1024, 3071)
        spacing = math.sqrt(math.prod(item.spacing))
        for name in NAMES:
            ready = methods(models, name, spacing)
            scale = models["ct"].intensity.scale
            process = instrument(SCANNERS[name], Fourier((SIDE, SIDE), (spacing, spacing)), scale)
            x = models["ct"].intensity.encode(truth.float())[None, None]
            y = measured_inside(process, x, key(0, "cascade-posterior", len(seen)) % 2**31, 32)
            for method in ready:
                if method.name not in known["cost"]:
                    known["cost"][method.name] = cost(method)
                if (item.patient, name, method.name) in done:
                    continue
                found = restored(method, y, scale)
                found["mean"] = found["mean"] + models["ct"].intensity.offset
                found["members"] = found["members"] + models["ct"].intensity.offset
                row = {"patient": item.patient, "instrument": name, "method": method.name, "spacing": spacing}
                row |= figures(found, truth, spacing) | {k: found[k] for k in ("seconds", "member_seconds")}
                known["rows"].append(row)
                write_file(OUT, json.dumps(known, indent=1).encode())
                print(f"{item.patient} {name} {method.name}: {row['square'] ** 0.5:.2f} HU", flush=True)
    print(shown(known))


def shown(known: dict[str, Any]) -> str:
    """The table: mean and SD between patients."""
    rows = known["rows"]
    by: Callable[..., dict[str, Any]] = lambda i, m: {  # noqa: E731
        r["patient"]: r for r in rows if r["instrument"] == i and r["method"] == m
    }
    names = list(dict.fromkeys(r["method"] for r in rows))
    unit = known["cost"]["Fourier"]["mean"]
    header = ["instrument", "method", "error", "of the mean of members", "SSR^2", "members: SSR^2", "energy",
              "discs 5 mm", "discs 10 mm", "worst band"]  # fmt: skip
    lines = []
    for instrument_name in NAMES:
        base, first = by(instrument_name, "Wiener"), by(instrument_name, "Fourier")
        for name in names:
            own = by(instrument_name, name)
            if not own:
                continue

            def over(what: str, below: dict[str, Any], under: str, own: dict[str, Any] = own) -> str:
                return _both([own[p][what] / below[p][under] for p in own])

            band = [_both([r["bands"][b] for r in own.values()]) for b in range(BANDS)]
            worst = max(band, key=lambda text: abs(math.log(float(text.split(" ")[0]))))
            cells = [over("square", base, "square"), over("of_members", base, "square")]
            cells += [_both([r["ssr2"] for r in own.values()])]
            cells += [_both([r["ssr2"] / r["drawn"] for r in own.values()]), over("energy", first, "energy")]
            cells += [_both([r[f"disc_{d:g}"] for r in own.values()]) for d in DISCS]
            lines.append([instrument_name, name, *cells, worst])
    text = table(header, lines)
    costs = []
    for name, found in known["cost"].items():
        if not found:
            continue
        own = [r for r in rows if r["method"] == name]
        seconds = sorted(r["seconds"] for r in own)[len(own) // 2]
        member = sorted(r["member_seconds"] for r in own)[len(own) // 2]
        costs.append([name, f"{found['mean'] / unit:.2f}", f"{found['member'] / unit:.2f}", f"{seconds:.2f}",
                      f"{member:.2f}", f"{found['bytes'] / 1e6:.0f}" if found["bytes"] else ""])  # fmt: skip
    heading = ["method", "lattice, mean", "lattice, a member", "CPU s, mean", "CPU s, a member", "MB of activations"]
    patients = len({r["patient"] for r in rows})
    said = f"{patients} patients, one slice of 512 x 512 pixels each; mean ± SD between patients. "
    said += f"{known['steps']} steps of 32 patches."
    return f"{text}\n\n{table(heading, costs)}\n\n{said}"


def _both(values: list[float]) -> str:
    mean, sd = mean_sd(values)
    return f"{mean:.3f} ± {sd:.3f}"


def main() -> None:
    """Run or write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--docs", action="store_true")
    given = parser.parse_args()
    if given.docs:
        replace_block(PAGE, "cascade-posterior", shown(json.loads(OUT.read_text())))
    elif given.model is None:
        parser.error("MODEL: the path of the trained cascade")
    elif not there():
        print("The images of patients are not beside the repository.")
    else:
        run(given.model)


if __name__ == "__main__":
    main()
