"""The examination of a measured image: before the sampling by one call of the network, after it by the members."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import key
from retrodict.data import Image
from retrodict.models.held_out import HeldOut
from retrodict.models.model import Model
from retrodict.samplers.ensemble import Finished, Restoration, SamplingOptions, kind_of, restore_batch
from retrodict.samplers.misfit import BandMisfit, flat_pixels, one_call, reach
from retrodict.samplers.uneven import one_call_with_map
from retrodict.tasks.plausible import implausible
from retrodict.tasks.verdict import LEVEL, Check, Verdict, band_names, in_words, predictions

__all__ = ["FACTOR", "Examination", "judged"]


FACTOR = 1.3
"""A noise this many times stronger or weaker has to be seen, or nothing is said of the uncertainty."""


# ---- the way of one image ----------------------------------------------------------------------------------------


def judged(
    image: Image,
    work: Image,
    y: Tensor,
    model: Model,
    sampling: SamplingOptions,
    name: str,
    finish: Callable[[Tensor], Tensor],
    watch: Callable[[int, int], None] | None = None,
    parts: Finished | None = None,
    factor: Tensor | None = None,
    warnings: Sequence[str] = (),
) -> tuple[Restoration, Verdict]:
    """Restore measured images y `(B, C, *N)` of `image`, on the grid of `work`, and say what the result is.

    With a noise map `factor` `(B, 1, *N)` each of them by one call.

    Where a check fails before the sampling, E[x_0 | y] is given and nothing is sampled; where one fails after it, the
    mean of the members.  Neither has a deviation or samples.  `warnings`: what is known to be said before.
    """
    strange = [*warnings, *implausible(image, model, name)]
    padding = None if work.padding is None else work.padding.reshape(-1, *y.shape[2:])
    padding = padding if padding is None or len(padding) == len(y) else padding[:1].expand(len(y), *y.shape[2:])
    examination = Examination(model, y, padding, sampling.margin, sampling.seed, factor, warnings=strange)
    examination.refuse_tiny(str(image.source[0]) if image.source else name)
    if work is not image:
        examination.resampled = f"the image was resampled from {_spacing(image)} to {_spacing(work)} mm"
    asked = not sampling.uncertainty
    if not examination.before() and not asked:
        kind_of(model.denoiser, sampling)  # what no image could be given is refused all the same
        verdict = examination.verdict("point", False)
        return _by_one_call(examination, finish, verdict.text), verdict
    members = sampling.samples
    saw = None if asked else lambda x: examination.saw(x, members)
    kept = None if parts is None else _Kept(parts, examination, asked)
    result = restore_batch(model.denoiser, y, sampling, finish=finish, saw=saw, watch=watch, parts=kept, factor=factor)
    if result.kind == "posterior" and not examination.after():
        result = replace(result, sd=None, samples=None, kind="point", stops=())
    verdict = examination.verdict(result.kind, asked)
    return (replace(result, reason=verdict.text) if verdict.reasons else result), verdict


class _Kept:
    """Finished items with what was seen of their members, so that a run that goes on judges them too."""

    def __init__(self, parts: Finished, examination: Examination, asked: bool) -> None:
        self.parts, self.examination, self.asked = parts, examination, asked

    def load(self, item: int) -> dict[str, Tensor] | None:
        part = self.parts.load(item)
        if part is None or self.asked or self.examination.misfit is None:
            return part
        seen = part.pop("seen", None)
        if seen is None:
            return None
        self.examination.seen[item] = [seen]
        return part

    def save(self, item: int, part: dict[str, Tensor]) -> None:
        seen = self.examination.seen.get(item)
        self.parts.save(item, part if seen is None else {**part, "seen": torch.cat(seen)})


def _by_one_call(examination: Examination, finish: Callable[[Tensor], Tensor], reason: str) -> Restoration:
    means = torch.cat([finish(mean) for mean in examination.means]).to(examination.y)
    details: dict[str, object] = {"rule": "one call", "steps": 1, "nfe": 1, "members": 1, "grid": [1.0]}
    return Restoration(means, None, "point", reason, None, 1, [], examination.seconds, details)


def _spacing(image: Image) -> str:
    return " x ".join(f"{s:.4g}" for s in image.spacing[-2:])


# ---- the examination ---------------------------------------------------------------------------------------------


@dataclass
class Examination:
    """The checks of measured images y `(B, C, *N)` in model units against the instrument of a model, as they come in.

    `padding` `(B, *N)`: pixels that the file itself calls outside; `margin`, `seed`: as the sampler has them.
    `factor` `(B, 1, *N)`: a noise map, at the local level of which the noise is then judged.
    """

    model: Model
    y: Tensor
    padding: Tensor | None = None
    margin: int = 16
    seed: int = 0
    factor: Tensor | None = None
    resampled: str = ""
    seconds: float = 0.0
    checks: list[Check] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    means: list[Tensor] = field(default_factory=list)
    seen: dict[int, list[Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Find the pixels where noise can be seen."""
        self.misfit: BandMisfit | None = None
        denoiser = self.model.denoiser
        if denoiser.process.measurement is None or denoiser.prior() is None:
            self.notes.append("The law of the measurement is not known: nothing was compared with it.")
            return
        flat = flat_pixels(self.y.cpu())
        outside = torch.zeros_like(flat) if self.padding is None else self.padding.cpu()
        self.misfit = BandMisfit(denoiser, self.y, flat | outside, self.margin, self.factor)
        self._say_flat(flat & ~outside)
        self._held = self._record()

    def _record(self) -> HeldOut | None:
        assert self.misfit is not None
        if self.model.spec.held_out is None:
            self.warnings.append("how much the noise of images scatters between patients is not known for this model")
            return None
        held = HeldOut.from_json(self.model.spec.held_out, f"{self.model.source}: held_out")
        edges = self.misfit.bands.edges
        if not held.edges:
            return self._of_many_instruments(held)
        if len(held.edges) != len(edges) or any(abs(a - b) > 0.02 for a, b in zip(held.edges, edges, strict=True)):
            self.warnings.append("how much the noise of images scatters between patients is known for other bands only")
            return None
        self.notes.append(
            f"Intervals from {held.patients} held-out patients ({held.images} images) and the sampling law; "
            f"an image that fits fails any of them in {LEVEL:.0%} of cases."
        )
        return held

    def _of_many_instruments(self, held: HeldOut) -> HeldOut | None:
        assert self.misfit is not None
        found = held.of_bands(self.misfit.bands.content)
        if found is None:
            self.warnings.append("how much the noise of images scatters between patients is known for fewer bands only")
            return None
        self.notes.append(
            f"Intervals from {held.patients} held-out patients ({held.images} images, each of another instrument) and "
            f"the sampling law; an image that fits fails any of them in {LEVEL:.0%} of cases."
        )
        return found

    def _say_flat(self, flat: Tensor) -> None:
        share = float(flat.double().mean())
        if share > 1e-3:
            values = self.model.intensity.decode(self.y.cpu().real)[flat[:, None].expand_as(self.y)]
            level = f"{float(values.median()):.4g} {self.model.intensity.unit}"
            self.warnings.append(
                f"{share:.1%} of the pixels carry no noise (clipped, filled or constant, at {level}): there the "
                "deviation is not calibrated"
            )

    def smallest(self) -> tuple[int, ...]:
        """Pixels that an image needs along every axis."""
        if self.misfit is None:
            return (1,) * (self.y.ndim - 2)
        return reach(self.misfit.bands.edges, self.model.denoiser.process.basis.spacing)

    def refuse_tiny(self, where: str) -> None:
        """Raise `InputError` for an image that is smaller than what its noise is judged by looks at."""
        size, least = tuple(self.y.shape[2:]), self.smallest()
        if any(n < m for n, m in zip(size, least, strict=True)):
            found, wanted = (" x ".join(map(str, row)) for row in (size, least))
            far = least[0] if len(set(least)) == 1 else f"{min(least)} to {max(least)}"
            raise InputError(
                where,
                f"{found} pixels",
                f"at least {wanted}: to judge its noise is to look {far} pixels far, and beyond the border there are "
                "only mirrored pixels",
            )

    # ---- before ------------------------------------------------------------------------------------------------

    def before(self) -> bool:
        """Compare by one call of the network an image; whether a posterior may follow."""
        if self.misfit is None:
            return True
        started = time.perf_counter()
        for item in range(len(self.y)):
            own = key(self.seed, "examination", item)  # slices are not to share their draws
            mean, sample = self._one_call(item, own)
            self.means.append(mean)
            if not self._enough(item):
                continue
            if sample is not None:
                self._judge(item, [sample], "before the sampling", "one_call")
        self._conclude()
        self.seconds = time.perf_counter() - started
        return not self.reasons

    def _one_call(self, item: int, seed: int) -> tuple[Tensor, Tensor | None]:
        """E[x_0 | y] of an item and one sample, by one call of the network."""
        denoiser, y = self.model.denoiser, self.y[item : item + 1]
        if self.factor is None:
            return one_call(denoiser, y, margin=self.margin, seed=seed)
        return one_call_with_map(denoiser, y, self.factor[item : item + 1], margin=self.margin, seed=seed)

    def _enough(self, item: int) -> bool:
        """Whether a noise `FACTOR` times stronger could be seen at all, before the sampling or after it."""
        assert self.misfit is not None
        if self.misfit.counts[item] > 0 and any(self._tells(item, law) for law in ("one_call", "sampled")):
            return True
        pixels = f"{self.misfit.counts[item]} pixels" + (f" of slice {item + 1}" if len(self.y) > 1 else "")
        known = "" if self._held is None else f" and the {self._held.patients} patients on record"
        self.reasons.append(f"{pixels}{known} are too few to see whether the noise is {FACTOR} times as strong")
        return False

    def _tells(self, item: int, law: str) -> bool:
        """Whether in some band the interval ends below what is left to see of it (`BandMisfit.sensitivity`)."""
        assert self.misfit is not None
        level = self._level()
        laws = predictions(self.misfit, item, self._held, law)[:-1]
        found = [math.log1p(eta * (FACTOR**2 - 1)) for eta in self.misfit.sensitivity]
        return any(p.interval(level)[1] - p.center < seen for p, seen in zip(laws, found, strict=True))

    def _level(self) -> float:
        assert self.misfit is not None
        return LEVEL / (2 * len(self.misfit.bands.edges) * len(self.y))

    def _judge(self, item: int, samples: list[Tensor], stage: str, law: str) -> None:
        assert self.misfit is not None
        ratios = self.misfit.ratios(torch.cat(samples), item)
        found = [*ratios.bands.mean(0).tolist(), float(ratios.uneven.mean())]
        self._compare(item, found, stage, law)

    def _compare(self, item: int, found: list[float], stage: str, law: str) -> None:
        assert self.misfit is not None
        names, level = band_names(self.misfit.bands.edges), self._level()
        for name, value, expected in zip(names, found, predictions(self.misfit, item, self._held, law), strict=True):
            if math.isnan(value) or not math.isfinite(expected.scale):
                continue  # fewer than four tiles, or a band without noise
            low, high = (math.exp(x) for x in expected.interval(level))
            log = -math.inf if value == 0 else math.log(value)
            self.checks.append(Check(name, stage, value, low, high, expected.p_value(log), level, item))

    def _conclude(self) -> None:
        """Put the worst of the checks that failed into words."""
        failed = [c for c in self.checks if not c.passed]
        if not failed:
            return
        text = in_words(failed, len(self.y))
        text = f"{text}; {self.resampled}" if self.resampled else text
        if text not in self.reasons:
            self.reasons.append(text)

    # ---- after -------------------------------------------------------------------------------------------------

    def saw(self, members: Tensor, count: int) -> None:
        """Members `(k, C, *N)` in model units, in the order in which they are drawn, `count` for each item."""
        if self.misfit is None:
            return
        done = (k for k in range(len(self.y)) if sum(len(r) for r in self.seen.get(k, [])) < count)
        item = next(done)  # items come one after the other
        ratios = self.misfit.ratios(members, item)
        self.seen.setdefault(item, []).append(torch.cat([ratios.bands, ratios.uneven[:, None]], 1))

    def after(self) -> bool:
        """Compare the members; whether the posterior stands."""
        for item, rows in self.seen.items():
            found = torch.cat(rows).mean(0).tolist()
            self._compare(item, found, "after the sampling", "sampled")
        self._conclude()
        return not self.reasons

    def verdict(self, kind: str, asked: bool) -> Verdict:
        """What is to be said of a result of a kind."""
        reasons = tuple(dict.fromkeys(self.reasons))
        return Verdict(
            "point" if reasons else kind,
            reasons,
            tuple(dict.fromkeys(self.warnings)),
            tuple(self.checks),
            tuple(self.notes),
            asked,
        )
