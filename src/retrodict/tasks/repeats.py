"""Calibration without truth: the posterior of one scan predicts a second scan of the same object."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._output import staged, stamp, write_file
from retrodict._random import key
from retrodict.data import Image, Source, discover
from retrodict.models.instrument import model_with_instrument
from retrodict.models.model import Model, open_model
from retrodict.models.range import at_spacing
from retrodict.processes.process import Process
from retrodict.samplers.misfit import flat_pixels, grown
from retrodict.tasks.evaluate import check_folder
from retrodict.tasks.grid import items, off_grid
from retrodict.tasks.inputs import open_image
from retrodict.tasks.options import RestoreOptions
from retrodict.tasks.prepare import check_image
from retrodict.tasks.repeats_law import LEVELS, Laws, Seen, joined
from retrodict.tasks.repeats_match import Pair, differences, refuse_other_files, refuse_other_places
from retrodict.tasks.repeats_words import figures, judgment
from retrodict.tasks.restore import Job, Restored, Watch
from retrodict.tasks.results import result_name

__all__ = ["FILES", "Repeats", "evaluate_repeats"]


FILES = ("repeats.json", "repeats.png", "repeats.html", "table.md")


LEAST = 1024
"""Pixels that have to be looked at."""


@dataclass(frozen=True, repr=False)
class Repeats:
    """What a second scan said of the posterior of the first: `record` (JSON) and pictures `(H, W)` of one slice."""

    record: dict[str, Any]
    pictures: dict[str, np.ndarray] = field(repr=False)

    @property
    def verdict(self) -> str:
        """The finding in a line."""
        return self.record["verdict"]["text"]

    def markdown(self) -> str:
        """The table of bands, classes and discs, as Markdown."""
        head = [
            "where",
            "values",
            "observed / predicted",
            "95 % band",
            "posterior's share",
            "spread",
            "in 50 %",
            "in 90 %",
        ]
        lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
        for name, row in rows_of(self.record):
            cover = [row["coverage"].get(str(p)) for p in LEVELS]
            cells = [row["values"], f"{row['ratio']:.3f}", f"{row['lower']:.2f} to {row['upper']:.2f}"]
            spread = f"{row['spread']:.2f}" if row["sees"] < 1 else "not seen"
            cells += [f"{row['share']:.1%}", spread, *("" if c is None else f"{c:.1%}" for c in cover)]
            lines.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
        notes = [f"- {n}" for n in (*self.record["verdict"]["notes"], self.record["verdict"]["cannot_see"])]
        return "\n".join([self.verdict, "", *lines, "", *notes, ""])

    def save(self, out: str | Path, *, force: bool = False) -> list[Path]:
        """Write repeats.json, repeats.png, repeats.html and table.md into `out`: all of them, or none."""
        from retrodict.report.repeats import picture, render

        folder = check_folder(out, force=force, files=FILES)
        contents = {
            "repeats.json": json.dumps(_plain(self.record), indent=1).encode(),
            "repeats.png": picture(self.record),
            "repeats.html": render(self.record, self.pictures).encode(),
            "table.md": self.markdown().encode(),
        }
        with staged(folder, "repeats", force=True) as staging:
            for name, content in contents.items():
                write_file(staging / name, content)
        return [folder / n for n in contents]

    def __repr__(self) -> str:
        """The finding in a line."""
        return f"Repeats({self.verdict!r})"


def rows_of(record: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every row of the record with its name."""
    bands = [(f"{b['low']:.2f} to {b['high']:.2f} /mm", b) for b in record["bands"]]
    classes = [("pixels" if c["name"] == "all" else c["name"], c) for c in record["classes"]]
    return [*bands, *classes, *((f"discs of {d['mm']:g} mm", d) for d in record["discs"])]


def _plain(x: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(x, float):
        return x if math.isfinite(x) else None
    if isinstance(x, dict):
        return {k: _plain(v) for k, v in x.items()}
    return [_plain(v) for v in x] if isinstance(x, list | tuple) else x


def evaluate_repeats(
    scans: Sequence[Any] | str | Path,
    *,
    model: str | Path | Model = "ct",
    repeat_mtf: Any = None,
    repeat_nps: Any = None,
    repeat_noise: float | None = None,
    watch: Watch | None = None,
    **changes: Any,
) -> Repeats:
    """Restore the first scan and compare the others with what its posterior predicts of them.

    scans: two or more scans of one object that did not move, with independent noise: paths, `Image`s or arrays as
    `restore` takes them, or a folder that holds them (the first by name is restored).
    Predicted is y_2 ~ h_2 x_0 + s_2 z with x_0 ~ p(x_0 | y_1).  In bands of |f|, classes of tissue and for the means of
    discs of 2, 5, 10 and 20 mm: the power of y_2 - h_2 E[x_0 | y_1] over what is predicted of it, with a 95 % band from
    the scatter over tiles; coverage of 50 and 90 % intervals; ranks.
    repeat_noise: noise of the other scans over that of the first (half the dose: 1.41); repeat_nps, repeat_mtf: their
    own measured curves.  changes: fields of `RestoreOptions`, for the restoration of the first scan.

    Raises `InputError` for scans that are no repeats (another grid, unit, spacing, patient, kernel or object, moved,
    the same pixels twice), and for a first scan that has no posterior.  Scans whose difference has not the power of
    their noise are judged "no repeats", and say why.
    """
    known = ("model", "repeat_mtf", "repeat_nps", "repeat_noise", "watch")
    options = RestoreOptions.of(changes, known)
    for name in ("point", "resample"):
        if getattr(options, name):
            raise InputError(name, "asked for", "not: a posterior on the grid of the model is tested")
    if options.noise_map is not None:
        raise InputError("noise_map", "given", "none: the noise of the scans is tested as that of their NPS")
    loaded = open_model(model)
    images = _opened(scans, options, loaded)
    own_blur = repeat_mtf is not None
    refuse_other_files(images, own_blur=own_blur)
    for name, image in images:
        _check_grid(image, loaded, name)
    job = Job.of(images[0][1], loaded, replace(options, keep_samples=True), result_name(images[0][0]))
    ready = replace(job.model, denoiser=job.model.denoiser.to("cpu"))
    second = _second(loaded, job, repeat_mtf, repeat_nps, repeat_noise)
    laws = Laws(ready.denoiser.process, second, tuple(images[0][1].values.shape[-2:]))  # type: ignore[arg-type]
    pairs = [_pair(ready, laws, images[0], other) for other in images[1:]]
    places = [
        refuse_other_places(laws, p, name, i.spacing[-2:]) for p, (name, i) in zip(pairs, images[1:], strict=True)
    ]
    restored = _restored(job, images[0][0], watch)
    seen = joined([_seen(laws, p, restored, ready, options.seed + j) for j, p in enumerate(pairs)], same=True)
    record = figures(seen, laws, images[0][1].unit, ready.intensity.scale)
    found = [differences(laws, p) for p in pairs]
    worst = max(found, key=lambda d: max(abs(math.log(max(r.value, 1e-9))) for r in d.ratios))
    stated = repeat_noise is not None or repeat_nps is not None
    record |= {
        "format": "retrodict-repeats-1",
        "verdict": judgment(record, worst, stated=stated).to_json(),
        "difference": [d.to_json() for d in found],
        "places": places,
        "scans": [name for name, _ in images],
        "slices": len(pairs[0].y1),
        "members": options.samples,
        "unit": images[0][1].unit,
        "spacing_mm": list(images[0][1].spacing[-2:]),
        "model": ready.source,
        "restoration": restored.verdict.text,
        "noise_of_scan_2": {"noise": repeat_noise, "nps": _said(repeat_nps), "mtf": _said(repeat_mtf)},
        "sampling": restored.details["sampling"],
        "seconds": restored.details["seconds"],
        **job.about,
        **stamp(),
    }
    return Repeats(record, _pictures(laws, pairs[0], restored, images, ready))


def _said(curve: Any) -> str | None:
    return None if curve is None else str(curve) if isinstance(curve, str | Path) else "given"


def _opened(scans: Any, options: RestoreOptions, model: Model) -> list[tuple[str, Image]]:
    """Scans with different names; a folder alone stands for what it holds."""
    given: list[Any] = [scans] if isinstance(scans, str | Path) else list(scans)
    if len(given) == 1 and isinstance(given[0], str | Path) and Path(given[0]).is_dir():
        given = list(discover(Path(given[0])))
    if len(given) < 2:
        hint = "Two scans, two half doses, or two noise realizations of one object."
        raise InputError("repeats", f"{len(given)} scan{'s' * (len(given) != 1)}", "at least two of one object", hint)
    out = []
    for k, scan in enumerate(given):
        image, name = open_image(scan, options, model)
        named = name if isinstance(scan, str | Path | Source) or image.source else f"scan {k + 1}"
        out.append((named if named not in dict(out) else f"{named} ({k + 1})", image))
    return out


def _check_grid(image: Image, model: Model, name: str) -> None:
    """Raise `InputError` for an image that the model does not restore as it is."""
    check_image(image, model, name)
    if off_grid(image, model):
        found, allowed = f"{tuple(round(s, 4) for s in image.spacing[-2:])} mm", model.spec.spacings
        wanted = (
            f"{model.spec.spacing} mm" if allowed is None else f"square pixels of {allowed[0]:g} to {allowed[1]:g} mm"
        )
        raise InputError(name, found, f"{wanted}, at which the model was trained")


def _second(loaded: Model, job: Job, mtf: Any, nps: Any, noise: float | None) -> Process:
    """The process that ends at the law of the other scans, on the pixels of the first."""
    if noise is not None and nps is not None:
        raise InputError("repeat_noise", "one beside the NPS of the repeats", "one of the two")
    process = job.model.denoiser.process.to("cpu")
    if mtf is not None or nps is not None:
        first = {"mtf": job.options.mtf, "nps": job.options.nps, **(job.estimate.curves if job.estimate else {})}
        given = {"mtf": mtf, "nps": nps}
        placed = at_spacing(loaded, job.model.spec.spacing) if loaded.spec.spacings is not None else loaded
        curves = {k: first[k] if given[k] is None else given[k] for k in first}
        process = model_with_instrument(placed, **curves)[0].denoiser.process
    if noise is None:
        return process
    if not 0 < noise < math.inf:
        raise InputError("repeat_noise", noise, "a number above 0, such as 1.41 for half the dose")
    law = process.pairing.law
    if law is None:
        raise InputError("repeats", "a process without a law of the measurement", "one with an MTF and an NPS")

    def stronger(basis: Any) -> Any:
        m = law(basis)
        return m._replace(s2=m.s2 * noise**2)

    return replace(process, pairing=replace(process.pairing, law=stronger))


def _pair(model: Model, laws: Laws, first: tuple[str, Image], other: tuple[str, Image]) -> Pair:
    """Slices of both scans in model units, and where noise can be seen in both."""
    stacks, unseen = [], None
    for _, image in (first, other):
        y = model.intensity.encode(items(image, 2)).cpu()
        flat = flat_pixels(y)
        if image.padding is not None:
            flat = flat | image.padding.reshape(-1, *flat.shape[1:]).cpu()
        stacks.append(y[:, 0].double())
        unseen = flat if unseen is None else unseen | flat
    assert unseen is not None
    seen = ~grown(unseen, laws.reach)
    if int(seen.sum()) < LEAST:
        found = (
            f"{int(seen.sum())} pixels that are {laws.reach} pixels from the border and from what is clipped or filled"
        )
        raise InputError(other[0], found, f"at least {LEAST}")
    bound = model.denoiser.to("cpu").on(laws.frame.size)
    prior = bound.prior()
    if prior is None:
        raise InputError("model", "one that does not know the spectrum of its data", "one that does")
    mean, variance = (
        t.reshape(t.shape[-2:]) if t.ndim > 1 else t for t in (torch.as_tensor(p, device="cpu") for p in prior)
    )
    return Pair(stacks[0], stacks[1], seen, mean, variance.expand(laws.basis.shape))


def _restored(job: Job, name: str, watch: Watch | None) -> Restored:
    found = job.run(watch)
    if found.sd is None:
        hint = "Measure the NPS and the MTF of this scanner first (retrodict measure), or fit a model to it."
        raise InputError(name, found.verdict.text, "a scan whose restoration is a posterior", hint)
    return found


def _seen(laws: Laws, pair: Pair, restored: Restored, model: Model, seed: int) -> Seen:
    members = torch.stack([items(model_units(s, model), 2)[:, 0] for s in restored.samples])
    mean = items(restored.mean, 2)[:, 0]
    return joined(
        [
            laws.look(
                pair.y1[z], pair.y2[z], members[:, z], pair.seen[z], seed=key(seed, "repeats", z),
                mean_in_unit=mean[z], unit=restored.mean.unit,
            )
            for z in range(len(pair.y1))
        ],
        same=False,
    )  # fmt: skip


def model_units(image: Image, model: Model) -> Image:
    """The image in model units."""
    return image.with_values(model.intensity.encode(image.values))


def _pictures(
    laws: Laws, pair: Pair, restored: Restored, images: Sequence[tuple[str, Image]], model: Model
) -> dict[str, np.ndarray]:
    """Middle slice: both scans, the mean, scan 2 minus its prediction over the predicted deviation."""
    z = len(pair.y1) // 2
    members = torch.stack([items(model_units(s, model), 2)[z, 0] for s in restored.samples])
    predicted = laws.pixels(laws.law(2).h * laws.coefficients(members))
    sd = ((1 + 1 / len(members)) * predicted.var(0) + laws.power(laws.law(2).s2)).sqrt()
    score = (pair.y2[z] - predicted.mean(0)) / sd
    shown: dict[str, Tensor] = {
        "scan 1": items(images[0][1], 2)[z, 0],
        "scan 2": items(images[1][1], 2)[z, 0],
        "mean": items(restored.mean, 2)[z, 0],
        "score": torch.where(pair.seen[z], score, 0.0),
    }
    return {k: v.cpu().float().numpy() for k, v in shown.items()}
