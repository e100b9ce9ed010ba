"""Trained on noisy CT alone: clean, naive, SURE-Score, WISGM and ours, a small network of equal budget each.

    python benchmarks/noisy_only.py [--steps 8000] [--levels 40] [--methods clean ours ...]
    python benchmarks/noisy_only.py --docs

Slices of 1 mm of real patients (TCGA, STS; own noise of at most 12 HU) get one fixed field of colored noise each, a
ramp that a window ends.  Training and calibration patients are of the split train; validation patients are measured,
two crops of 96 x 96 each, at the noise of the training images, at a quarter and at four times its variance.  Small on
purpose: one scanner, patches of 32 x 32, a network of some 0.1 million weights, one seed.  Results
are kept after each model in benchmarks/results/noisy_only.json; a run that was stopped goes on.

Methods: `clean` sees the images without the noise; `naive` takes the noisy ones for clean; `paper` is SURE-Score;
`ours` is what `data.noise` of a configuration trains; `joint` is its style joint, the scheme of WISGM.
`shrink` is the wavelet network of that training by itself, at the own noise alone (16 shifts), and `stein` is one that
has seen nothing but Stein's estimate, in as many steps.  --joint-steps: fewer steps for these three, which their rows
say.  CPU seconds are not said of what was trained before, or went on from a checkpoint.  Spread: calibrated on clean
patients for `clean`, on noisy ones taken for clean for `naive`, without truth for the others.  Classics: total
variation and L1 of wavelets that know the NPS, by FISTA, their strength by Morozov's discrepancy, on one crop of each
patient.  `redcnn`, `unrolled`, `dip`: other networks, at the own noise alone (`noisy_rivals.py`); a deep image prior on
one crop of each patient.  `noisy`: the images as they are, which is what filtered backprojection of a low dose gives.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisy_rivals import CT_VALUES, Recipe, RedCNN, Unrolled, deep_image_prior, learned, noise_weighted
from retrodict._output import stamp, write_file
from retrodict._random import key, uniform, white
from retrodict.bases import Basis, Fourier
from retrodict.bases.curve import Curve
from retrodict.data.collection import Slice, row_slices
from retrodict.data.image import replace
from retrodict.data.index import read_index
from retrodict.data.resample import resample_axes
from retrodict.data.spacings import SpacingSet
from retrodict.denoisers.network import NetDenoiser
from retrodict.denoisers.shrink import ShrinkDenoiser
from retrodict.models.model import Intensity, ModelSpec
from retrodict.nets import JointNet, precision_for
from retrodict.physics import Covariance, GaussianNoise, Identity, Measurement
from retrodict.physics.classics import choose
from retrodict.processes.clocks import ClockLaw, at_rest
from retrodict.processes.process import Process
from retrodict.tasks.fit_collection import body_spectrum
from retrodict.tasks.fit_noise import OwnNoise, clean_spectrum
from retrodict.training.ambient import Ambient
from retrodict.training.calibrate_law import calibrate_over_law, inside
from retrodict.training.joint import JointScheme, shrink_alone
from retrodict.training.loop import TrainingOptions, train
from retrodict.training.losses import Batch, Example, denoising_loss

ROOT = Path(__file__).resolve().parents[1]
DATA, RESULT = ROOT.parent / "shared" / "data", ROOT / "benchmarks" / "results" / "noisy_only.json"
SETS, UNIT = ("ct_tcga_lung", "ct_sts_extremity"), Intensity("HU", 200.0, -1000.0)
METHODS, CLASSICS, TIMES = ("clean", "naive", "paper", "joint", "ours"), ("tv", "wavelet"), (0.25, 1.0, 4.0)
SHRINKS = {"shrink": "joint", "stein": "stein"}  # a wavelet network alone, and the training that it is of
SIDE, CLEANEST = 96, 12.0
NAMES = {
    "clean": "clean images",
    "naive": "noisy, as if clean",
    "paper": "noisy: SURE-Score",
    "joint": "noisy: WISGM, joint",
    "ours": "noisy: `data.noise`",
    "shrink": "noisy: the wavelet network of WISGM",
    "stein": "noisy: wavelet network by Stein's estimate",
    "redcnn": "pairs: RED-CNN",
    "unrolled": "pairs: unrolled",
    "dip": "(deep image prior)",
    "tv": "(total variation, FISTA)",
    "wavelet": "(L1 of wavelets, FISTA)",
    "noisy": "(nothing: as scanned)",
}


def nps(std: float) -> Curve:
    """A ramp that a window ends, of `std` HU on pixels of 1 mm, HU^2 mm^2."""
    f = torch.linspace(0, 1.0, 101, dtype=torch.float64)
    shape = (f / 0.3 + 0.1) * torch.exp(-((f / 0.35) ** 2)) + 0.02
    basis = Fourier((128, 128), (1.0, 1.0))
    curve = Curve.isotropic(f, shape, "HU^2 mm^2")
    weight = basis.multiplicity() / basis.multiplicity().sum()
    return Curve.isotropic(f, shape * std**2 / float((curve.on(basis) * weight).sum()), "HU^2 mm^2")


@dataclass(frozen=True)
class Images:
    """What is trained on: the unit of the models, the NPS of noise of so much deviation, patches and the network.

    empty_below: where a pixel counts as empty, in the unit of the images (None: nowhere).
    """

    unit: Intensity
    nps: Callable[[float], Curve]
    side: int = 32
    empty_below: float | None = None
    width: int = 16
    precision: str = "float32"

    def own(self, std: float) -> OwnNoise:
        """Noise of `std` in the unit of the images."""
        return OwnNoise(self.nps(std), None, False, self.unit.scale)

    def patches(self, items: list[Slice]) -> SpacingSet:
        """Patches of slices of 1 mm."""
        return SpacingSet(items, self.side, (0.9, 1.1), copies=0, empty_below=self.empty_below, max_empty=0.7)

    def network(self) -> dict[str, Any]:
        """The network of all methods, by its record."""
        return {"name": "unet", "options": {"width": self.width, "multipliers": [1, 2], "blocks": 1, "patch": 2,
                                            "activation": "relu", "padding": "zeros"}}  # fmt: skip


CT = Images(UNIT, nps, empty_below=-900.0)


@dataclass(frozen=True)
class OneInstrument:
    """A law of clocks for one scanner: its noise at a sixteenth to sixteen times the variance."""

    own: OwnNoise

    def clocks(self, basis: Basis, seeds: Tensor) -> Tensor:
        """Multiples of the noise `(B, 1, *K)`."""
        assert isinstance(basis, Fourier)
        times = 16.0 ** (2 * uniform(seeds, "times", 0) - 1)
        return self.own.variance(basis) * times.reshape(-1, 1, 1, 1)

    def __call__(self, basis: Basis, seeds: Tensor) -> Process:
        """A process that stands at the clocks."""
        return at_rest(basis, self.clocks(basis, seeds))


def slices(split: str, most: int) -> list[Slice]:
    """Clean slices at 1 mm, `most` of a patient."""
    out: dict[str, list[Slice]] = {}
    for name in SETS:
        rows = [r for r in read_index(DATA / name / "index.csv") if r.split == split and r.orientation in ("", "axial")]
        for item in row_slices([r for r in rows if (r.noise or 99) <= CLEANEST]):
            values, spacing = resample_axes(item.image.values, item.spacing, (1.0, 1.0))
            if len(out.get(item.patient, [])) < most and min(values.shape[-2:]) >= SIDE:
                image = replace(item.image, values=values, spacing=spacing)
                out.setdefault(item.patient, []).append(replace(item, image=image))
    return [s for patient in out.values() for s in patient]


def noise_field(item: Slice, curve: Curve, number: int) -> Tensor:
    """One field of noise for a slice, cut from a larger one, HU."""
    size = tuple(n + 32 for n in item.image.values.shape[-2:])
    basis = Fourier(size, (1.0, 1.0))
    z = white(torch.tensor([key(0, "own", number)]), "noise", 0, (1, *size)).double()
    whole = basis.inverse(curve.on(basis).sqrt() * basis.forward(z))[0]
    return whole[:, : size[0] - 32, : size[1] - 32].float()


def noisy(items: list[Slice], curve: Curve) -> list[Slice]:
    """The same slices with noise of their own."""
    return [
        replace(s, image=replace(s.image, values=s.image.values + noise_field(s, curve, n)))
        for n, s in enumerate(items)
    ]


def plain(images: Images, items: list[Slice]) -> Batch:
    """Patches that are taken for clean."""
    source = images.patches(items)

    def batch(keys: list[int]) -> Example:
        values, spacing = source.batch(keys)
        return Example(images.unit.encode(values), spacing=(spacing, spacing))

    return batch


def trained(
    method: str,
    std: float,
    sides: dict[str, list[Slice]],
    folder: Path,
    options: TrainingOptions,
    law: OneInstrument | ClockLaw | None = None,
    images: Images = CT,
    *,
    calibrated: bool = True,
) -> NetDenoiser:
    """A denoiser by one of the methods, over a law of observations: without one that of the scanner."""
    own = images.own(std)
    law = OneInstrument(own) if law is None else law
    seen = {k: v if method == "clean" else noisy(v, images.nps(std)) for k, v in sides.items()}
    spectrum = body_spectrum(seen["train"], images.unit, 64)
    joint = method in ("joint", "stein")
    honest = joint or method in ("paper", "ours")
    if honest:
        spectrum = clean_spectrum(spectrum, own, images.patches(seen["train"]))[0]
    size = (images.side, images.side)
    network = images.network()
    if joint:
        network = {"name": "joint", "options": {"score": network["name"], **network["options"]}}
    spec = ModelSpec(
        {"name": "fourier"}, network, spectrum.to_json(), images.unit, (1.0, 1.0), size, bands=4, level="clock"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = spec.build(method, precision_for(images.precision))
    make = (lambda side: own.batcher(images.patches(side), images.unit)) if honest else partial(plain, images)
    objective: Any = partial(denoising_loss, law=law)
    if honest:
        objective = Ambient(law, "paper" if method == "paper" else "ambient")
    if joint:
        objective = JointScheme(law) if method == "joint" else shrink_alone
    average = train(denoiser, make(seen["train"]), options, folder, objective=objective)
    denoiser.net.load_state_dict(average)
    denoiser = replace(denoiser, precision="float32")
    if not calibrated:
        return denoiser
    scale = calibrate_over_law(denoiser, make(seen["calibration"]), law, levels=6, items=96)
    return replace(denoiser, spread_scale=scale)


def measured(items: list[Slice], std: float) -> list[tuple[str, Tensor, Tensor]]:
    """(patient, truth, measurement of `std`) `(1, 1, SIDE, SIDE)` in model units, the fullest of the middle crops."""
    out = []
    for n, s in enumerate(items):
        top, left = ((m - SIDE) // 2 for m in s.image.values.shape[-2:])
        cut = (..., slice(top, top + SIDE), slice(left, left + SIDE))
        field = noise_field(s, nps(std), 10_000 + n)
        x = s.image.values
        out.append((s.patient, UNIT.encode(x[cut])[None], UNIT.encode((x + field)[cut])[None]))
    return out


def numbers(denoiser: NetDenoiser, items: list[Slice], std: float) -> dict[str, dict[str, list[float]]]:
    """By patient: root mean square error in HU, and squared error over stated variance, at every part of the noise."""
    own, basis, t = (
        CT.own(std),
        Fourier((SIDE, SIDE), (1.0, 1.0)),
        torch.ones(1).double(),
    )
    out: dict[str, dict[str, list[float]]] = {}
    window = inside(basis) ** 2
    for times in TIMES:
        bound = denoiser.at(at_rest(basis, times * own.variance(basis)))
        sums: dict[str, list[float]] = {}
        for name, x, y in measured(items, std * math.sqrt(times)):
            with torch.no_grad():
                said = bound.estimate(y, t)
            assert said.spread is not None
            error = (window * (said.mean - x).double() ** 2).sum()
            variance = (window * said.spread.variance().double()).sum()
            found = [float(error), float(variance), float(window.sum())]
            sums[name] = [a + b for a, b in zip(sums.get(name, [0.0] * 3), found, strict=True)]
        rows = sums.values()
        out[str(times)] = {
            "rmse": [UNIT.scale * math.sqrt(e / w) for e, _, w in rows],
            "ssr2": [e / v for e, v, _ in rows],
        }
    return out


def of_wavelets(denoiser: NetDenoiser, items: list[Slice], std: float) -> dict[str, dict[str, list[float]]]:
    """Error by patient of the wavelet network of a joint training, by itself, at the own noise."""
    assert isinstance(denoiser.net, JointNet)
    basis, t = Fourier((SIDE, SIDE), (1.0, 1.0)), torch.ones(1).double()
    alone = ShrinkDenoiser(denoiser.net.shrink, at_rest(basis, CT.own(std).variance(basis)))
    window, sums = inside(basis) ** 2, dict[str, list[float]]()
    for name, x, y in measured(items, std):
        with torch.no_grad():
            error = float((window * (alone(y, t) - x).double() ** 2).sum())
        sums[name] = [a + b for a, b in zip(sums.get(name, [0.0] * 2), (error, float(window.sum())), strict=True)]
    return {"1.0": {"rmse": [UNIT.scale * math.sqrt(e / w) for e, w in sums.values()]}}


def classic(penalty: str, items: list[Slice], std: float) -> dict[str, dict[str, list[float]]]:
    """Error by patient of a penalty whose strength the noise decides."""
    basis = Fourier((SIDE, SIDE), (1.0, 1.0))
    noise = GaussianNoise(Covariance(CT.own(std).variance(basis)[0, 0], basis))
    operator, window = Identity((SIDE, SIDE)), inside(basis) ** 2
    sums: dict[str, list[float]] = {}
    for name, x, y in measured(items, std):
        if name in sums:
            continue  # one crop of a patient
        done = choose(Measurement(operator, y.double(), noise), method="fista", penalty=penalty, iterations=60,
                      accuracy=0.1, low=1.0, high=1e3)  # fmt: skip
        found = [float((window * (done.image - x).double() ** 2).sum()), float(window.sum())]
        sums[name] = [a + b for a, b in zip(sums.get(name, [0.0] * 2), found, strict=True)]
    return {"1.0": {"rmse": [UNIT.scale * math.sqrt(e / w) for e, w in sums.values()]}}


def rival(name: str, sides: dict[str, list[Slice]], items: list[Slice], std: float, seconds: float) -> dict:
    """Error by patient of a network of `noisy_rivals`."""
    variance = CT.own(std).variance
    basis = Fourier((SIDE, SIDE), (1.0, 1.0))
    window = inside(basis) ** 2
    answer = fitted(variance(basis)[0, 0], basis) if name == "dip" else on_pairs(name, sides["train"], std, seconds)
    sums: dict[str, list[float]] = {}
    for n, (patient, x, y) in enumerate(measured(items, std)):
        if name == "dip" and patient in sums:
            continue  # one crop of a patient
        found = [float((window * (answer(y, n) - x).double() ** 2).sum()), float(window.sum())]
        sums[patient] = [a + b for a, b in zip(sums.get(patient, [0.0] * 2), found, strict=True)]
    return {"1.0": {"rmse": [UNIT.scale * math.sqrt(e / w) for e, w in sums.values()]}}


def on_pairs(name: str, items: list[Slice], std: float, seconds: float) -> Callable[[Tensor, int], Tensor]:
    """A network that was trained on patches of clean slices and the same with noise of `std`."""
    variance, clean, small = CT.own(std).variance, CT.patches(items), Fourier((32, 32), (1.0, 1.0))
    root = variance(small).sqrt()

    def pairs(keys: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        x = UNIT.encode(clean.batch(keys)[0])
        z = white(torch.tensor(keys), "pair", 0, tuple(x.shape[1:])).double()
        y = x + small.inverse(root * small.forward(z)).to(x)
        return x, y, y

    torch.manual_seed(0)
    net = RedCNN(CT_VALUES) if name == "redcnn" else Unrolled(CT_VALUES, noise_weighted(variance))
    print(f"{name}: {learned(net, pairs, seconds, 8)}", flush=True)

    def answer(y: Tensor, number: int) -> Tensor:
        del number
        with torch.no_grad():
            return net(y, y)

    return answer


def fitted(variance: Tensor, basis: Fourier) -> Callable[[Tensor, int], Tensor]:
    """A deep image prior of an image, with a number for its weights."""
    root, weight = variance.rsqrt().float(), (basis.multiplicity() / basis.multiplicity().sum()).float()

    def answer(y: Tensor, number: int) -> Tensor:
        def misfit(made: Tensor) -> Tensor:
            return (basis.energy(basis.forward(made - y) * root) * weight).sum()

        return deep_image_prior(misfit, basis.size, CT_VALUES, number, Recipe()).image

    return answer


def untouched(items: list[Slice], std: float) -> dict[str, dict[str, list[float]]]:
    """Error by patient of the noisy images as they are, at every part of the noise."""
    window, out = inside(Fourier((SIDE, SIDE), (1.0, 1.0))) ** 2, {}
    for times in TIMES:
        sums: dict[str, list[float]] = {}
        for name, x, y in measured(items, std * math.sqrt(times)):
            found = [float((window * (y - x).double() ** 2).sum()), float(window.sum())]
            sums[name] = [a + b for a, b in zip(sums.get(name, [0.0] * 2), found, strict=True)]
        out[str(times)] = {"rmse": [UNIT.scale * math.sqrt(e / w) for e, w in sums.values()]}
    return out


def shown(values: list[float]) -> str:
    """Mean and SD between patients."""
    x = torch.tensor(values, dtype=torch.float64)
    return f"{float(x.mean()):.2f} ± {float(x.std()):.2f}"


def table(content: dict[str, Any]) -> str:
    """The Markdown table of the results."""
    found = {(r["std"], r["method"]): r["found"] for r in content["records"]}
    seconds = {(r["std"], r["method"]): r["seconds"] for r in content["records"]}
    steps = {(r["std"], r["method"]): f" ({r['steps']} steps)" if "steps" in r else "" for r in content["records"]}
    names = {"0.25": "a quarter", "1.0": "own noise", "4.0": "four times"}
    head = [
        "noise",
        "trained on",
        *(f"{kind}, {n}" for n in names.values() for kind in ("error", "SSR²")),
        "CPU seconds",
    ]
    rows = []
    for (std, method), result in sorted(found.items(), key=lambda x: (x[0][0], list(NAMES).index(x[0][1]))):
        cells = []
        for part in names:
            if part not in result:
                cells += ["", ""]
                continue
            ours, clean = result[part]["rmse"], found[std, "clean"][part]["rmse"]
            ratio = shown([a / b for a, b in zip(ours, clean, strict=True)])
            cells.append(f"{sum(ours) / len(ours):.1f} HU" if method == "clean" else ratio)
            cells.append(shown(result[part]["ssr2"]) if "ssr2" in result[part] else "")
        own = seconds[std, method]
        said = f"{NAMES[method]}{steps[std, method]}"
        rows.append([f"{std:g} HU", said, *cells, "" if own is None else f"{own / seconds[std, 'clean']:.1f}"])
    patients = content["setup"]["patients"]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    said = (f"{content['setup']['steps']} steps of 8 patches; {patients['train']} patients to train, "
            f"{patients['calibration']} to calibrate, {patients['validation']} to measure.")  # fmt: skip
    return f"{said}\n\n" + "\n".join(lines)


def write_docs(content: dict[str, Any]) -> None:
    """Put the table into the how-to."""
    path = ROOT / "docs" / "howto-noisy-scans.md"
    head, rest = path.read_text().split("<!-- noisy-only:begin -->", 1)
    tail = rest.split("<!-- noisy-only:end -->", 1)[1]
    path.write_text(f"{head}<!-- noisy-only:begin -->\n{table(content)}\n<!-- noisy-only:end -->{tail}")


def main() -> None:
    """Train and measure what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--joint-steps", type=int, help="of joint, shrink and stein, where they are to be fewer")
    parser.add_argument("--levels", type=float, nargs="+", default=[40.0])
    parser.add_argument("--methods", nargs="+", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "noisy_only")
    parser.add_argument("--docs", action="store_true", help="only write the table of the how-to")
    given = parser.parse_args()
    if given.docs:
        write_docs(json.loads(RESULT.read_text()))
        return
    torch.set_num_threads(1)
    ema = max(0.99, 1 - 16 / given.steps)
    options = TrainingOptions(steps=given.steps, batch=8, warmup=50, decay=0.3, ema=ema, learning_rate=3e-3)
    train_items, items = slices("train", 2), slices("validation", 2)
    names = sorted({s.patient for s in train_items})
    held = set(names[::6])
    sides = {"train": [s for s in train_items if s.patient not in held],
             "calibration": [s for s in train_items if s.patient in held]}  # fmt: skip
    patients = {k: len({s.patient for s in v}) for k, v in {**sides, "validation": items}.items()}
    setup = {"steps": given.steps, "side": SIDE, "patients": patients}
    for std, method in ((s, m) for s in given.levels for m in given.methods):
        if (method, std) in {(r["method"], r["std"]) for r in stored(setup)["records"]}:
            continue
        start, resumed = time.process_time(), False
        if method in (*METHODS, *SHRINKS):
            name = SHRINKS.get(method, method)
            numbers_of = replace(options, steps=steps_of(method, given))
            folder = given.runs / f"{name}-{std:g}-{numbers_of.steps}"
            resumed = folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            made = trained(name, std, sides, folder, numbers_of, calibrated=method in METHODS)  # goes on where it was
            found = (of_wavelets if method in SHRINKS else numbers)(made, items, std)
        elif method in CLASSICS:
            found = classic(method, items, std)
        elif method == "noisy":
            found = untouched(items, std)
        else:
            budget = [r["seconds"] for r in stored(setup)["records"] if (r["method"], r["std"]) == ("clean", std)]
            if not budget:
                parser.error(f"--methods {method}: the CPU seconds are those of clean, which is not there yet")
            found = rival(method, sides, items, std, budget[0])
        seconds = None if resumed else time.process_time() - start
        content = stored(setup)  # again: another process may have written
        record = {"method": method, "std": std, "found": found, "seconds": seconds}
        fewer = {} if steps_of(method, given) == given.steps else {"steps": steps_of(method, given)}
        content["records"].append({**record, **fewer})
        write_file(RESULT, json.dumps({**content, "stamp": stamp()}, indent=1).encode())
        mean = {k: sum(v["rmse"]) / len(v["rmse"]) for k, v in found.items()}
        print(f"{method:8s} {std:g} HU  rmse {mean}  {seconds or 0:.0f} CPU s", flush=True)


def steps_of(method: str, given: argparse.Namespace) -> int:
    """Steps of a training."""
    return given.joint_steps or given.steps if method in ("joint", *SHRINKS) else given.steps


def stored(setup: dict[str, Any]) -> dict[str, Any]:
    """What was measured with this setup."""
    content = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    return content if content.get("setup") == setup else {"setup": setup, "records": []}


if __name__ == "__main__":
    main()
