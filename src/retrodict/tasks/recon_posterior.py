"""`reconstruct` with a prior: a measurement of one slice to samples of the posterior, in the unit of the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.algebra import Affine
from retrodict.physics.classics import Reconstruction
from retrodict.physics.crop import Crop
from retrodict.physics.measurement import Measurement
from retrodict.physics.phase import Phased, middle_phase
from retrodict.posterior import posterior_method
from retrodict.posterior.ensemble import Ensemble, sample_posterior
from retrodict.posterior.fused import coefficients_of
from retrodict.posterior.joint import PHASE_ERROR
from retrodict.tasks.recon_acquired import Acquisition
from retrodict.tasks.recon_priors import FittedPrior, Prior, prior_for

__all__ = ["Drawing", "PosteriorSolver", "packed", "unpacked"]


@dataclass(frozen=True)
class Drawing(Reconstruction):
    """A `Reconstruction` whose `image` is the mean of `samples` `(K, 1, *domain.shape)`, in the operator's unit.

    `about`: method, style, kind and reason, misfit of the samples and its law, calls, warnings; JSON types.
    """

    samples: Tensor | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Inner:
    """Where the measured image lies in that of the prior, and the operator that knows its phase where the prior is of
    real ones."""

    place: tuple[slice, ...]
    phase: Phased | None = None

    @property
    def about(self) -> dict[str, str]:
        """What the record says of the phase."""
        if self.phase is None:
            return {}
        return {"phase": f"of the fully measured middle of k-space, with an error of {PHASE_ERROR:g} rad"}


@dataclass(frozen=True)
class PosteriorSolver:
    """Samples of the posterior of a measurement of one item, by a prior in the unit of the results.

    The operator of a measurement has images x in a unit of its own (1/mm) that the results a x + b (HU) come from; of
    those, u = (value - offset) / scale is what the model knows.  Both are folded into the operator once
    (`Affine.rescaled`), and the data are untouched.  Where the network takes no images of that size, the prior is one
    of a larger grid whose rest is not measured (`Crop`).  Complex images, of which a network knows the real ones, are
    turned by the phase that the middle of k-space tells (`middle_phase`); what its error leaves is drawn beside them.

    `method` is a name of `POSTERIORS` or "auto", `calls` of the network for every sample (None: as the method has it),
    `coupling` the correlation of neighboring slices that are drawn together (`recon_volume`; None: one by one).
    """

    prior: Prior
    scale: float
    shift: float
    method: str = "auto"
    samples: int = 16
    calls: int | None = None
    seed: int = 0
    coupling: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, made: Acquisition, model: Any, prior_spectrum: str | None = None, **options: Any) -> PosteriorSolver:
        """With the units of what was acquired; raises `InputError` for a prior of another unit."""
        prior = prior_for(made, model, prior_spectrum)
        zero = torch.zeros(1, 1, *[1] * len(made.spacing), dtype=torch.float64, device="cpu")
        b = float(made.shown(zero).flatten()[0])
        a = float(made.shown(zero + 1).flatten()[0]) - b
        if isinstance(prior, FittedPrior):  # in the unit of the operator already
            return cls(prior, 1.0, 0.0, **options)
        return cls(prior, prior.scale / a, (prior.offset - b) / a, **options)

    def require(self, part: Measurement, spacing: Sequence[float]) -> None:
        """Raise what a look at the first slice shows: a prior or a method that does not fit."""
        self.prior.look(part)
        denoiser, measurement, _ = self._pair(part, spacing, rough=True)
        options = dict(self.settings)
        style = options.pop("style", None)
        name = "matched" if self.method == "auto" else self.method
        made = posterior_method(name, denoiser, measurement, style=style, **options)
        if self.calls is not None and self.calls < made.calls:
            raise InputError("calls", self.calls, f"at least {made.calls}, those of one step of {name}")

    def __call__(
        self,
        part: Measurement,
        spacing: Sequence[float],
        item: int = 0,
        watch: Callable[[int, int], None] | None = None,
    ) -> Drawing:
        """Draw for slice `item`, which is its seed stream, of pixels of `spacing` mm; `watch(done, total)` samples."""
        denoiser, measurement, inner = self._pair(part, spacing)
        options = dict(self.settings)
        style = options.pop("style", None)
        found = sample_posterior(
            denoiser,
            measurement,
            self.method,
            style=style,
            samples=self.samples,
            steps=self._steps(options, denoiser, measurement, style),
            seed=self.seed,
            items=[item],
            watch=watch,
            **options,
        )
        said = [text.removeprefix("measurement 0: ") for text in found.warnings]  # slices come one by one
        if found.method == "fuse":
            law = coefficients_of(measurement, denoiser.process.basis)
            why = "" if law is None else self.prior.unlike(denoiser.process, law[1])
            said += [f"the measurement is not of the kind that the prior was shown in training: {why}"] if why else []
        samples = self._back(found.samples[:, 0], inner)
        mean = self._back(found.mean, inner)
        residual = part.relative_residual(mean)
        stopped = (f"{found.calls} calls",)
        misfit = part.misfit(mean).ratio
        return Drawing(
            mean, residual, misfit, (found.details["steps"],), stopped, kind=found.kind, samples=samples[:, None],
            about=self._about(found, said) | inner.about,
        )  # fmt: skip

    def digest(self, regions: Any) -> list[Any]:
        """What the result depends on, beside the measurement."""
        return [
            self.scale, self.shift, self.method, self.samples, self.calls, self.seed, self.prior.digest(),
            list(regions), *([] if self.coupling is None else [self.coupling]),
        ]  # fmt: skip

    def record(self, abouts: list[dict[str, Any]], kind: str) -> dict[str, Any]:
        """The record of all slices, with one sentence on the spread and its fit."""
        first = next((a for a in abouts if a["kind"] == kind), abouts[0])  # whose reason is that of the kind
        misfits = [a["misfit"] for a in abouts]
        worst = max(misfits, key=lambda v: abs(v - 1))
        words = {
            "posterior": f"Posterior{self.prior.words} of {first['samples']} samples a slice",
            "uncalibrated": f"{first['samples']} samples whose spread is not that of the posterior",
            "point": "One image without an uncertainty",
        }[kind]
        law = f"1 ± {first['misfit_sd']:.2g} for the true image"
        fit = f"chi² of the samples over its mean is {worst:.3g}{' at worst' if len(misfits) > 1 else ''} ({law})"
        words += "" if self.coupling is None else f", drawn together with neighbors correlated by {self.coupling:g}"
        said = f"{words}: {first['reason']}; {fit}."
        notes = [w if len(abouts) == 1 else w.replace("measurement 0", f"slice {i}") for i, a in enumerate(abouts)
                 for w in a["warnings"]]  # fmt: skip
        notes = [*self.prior.warnings(), *notes]
        same = {k: first[k] for k in ("method", "style", "reason", "samples", "calls", "gradients", "misfit_sd")}
        return {
            "kind": kind, "said": said, **self.prior.record(), "seed": self.seed, "misfit": misfits, **same,
            "seeds": [a["seeds"] for a in abouts], "warnings": notes, "unit_scale": self.scale,
            **{k: first[k] for k in ("phase",) if k in first},
            **({} if self.coupling is None else {"coupling": self.coupling}),
        }  # fmt: skip

    def _steps(self, options: Mapping[str, Any], denoiser: Any, measurement: Measurement, style: Any) -> int | None:
        calls = self.prior.calls if self.calls is None and style != "paper" else self.calls
        if calls is None:
            return None
        name = "matched" if self.method == "auto" else self.method
        return max(1, calls // posterior_method(name, denoiser, measurement, style=style, **options).calls)

    def _pair(self, part: Measurement, spacing: Sequence[float], rough: bool = False) -> tuple[Any, Measurement, Inner]:
        """Prior and measurement of images in the unit of the model, and where the measured image lies in them."""
        operator, phase = part.operator, None
        size = operator.domain.shape[1:]
        if operator.domain.shape[0] != 1 or len(size) != 2:
            raise InputError("image", f"images {operator.domain.shape}", "gray slices (1, H, W), as the prior has them")
        if operator.domain.complex and self.prior.phased:
            if self.shift:
                raise InputError("model", "an offset of its unit", "a model whose 0 is 0, for complex images")
            operator = phase = Phased(operator, middle_phase(part))
        multiple = self.prior.multiple
        wide = tuple(-(-n // multiple) * multiple for n in size)
        before = tuple((m - n) // 2 for m, n in zip(wide, size, strict=True))
        base = Affine.rescaled(operator.part, self.scale, self.shift, "u")
        known: Any = base
        if wide != size:
            domain = replace(base.domain, shape=(base.domain.shape[0], *wide))
            known = Affine(base.part @ Crop(domain, before, size), base.offset[0])
        if operator.offset is not None:
            known = Affine(known.part, known.offset[0] + operator.offset[0].to(known.offset))
        inner = Inner(tuple(slice(b, b + n) for b, n in zip(before, size, strict=True)), phase)
        denoiser = self.prior.denoiser(wide, spacing, part.operator.domain.complex, rough)
        return denoiser, replace(part, operator=known), inner

    def _back(self, u: Tensor, inner: Inner) -> Tensor:
        """Model unit to that of the operator, and real images to those of the phase that was found."""
        x = self.scale * u[(..., *inner.place)] + self.shift
        return x if inner.phase is None else inner.phase.joined(x)

    def _about(self, found: Ensemble, said: list[str]) -> dict[str, Any]:
        return {
            "kind": found.kind,
            "method": found.method,
            "style": found.style,
            "reason": found.reason,
            "samples": len(found.samples),
            "calls": found.calls,
            "gradients": found.gradients,
            "seeds": found.seeds[0],
            "misfit": float(found.misfit.mean()),
            "misfit_sd": found.misfit_sd,
            "warnings": said,
        }


def packed(about: Mapping[str, Any]) -> Tensor:
    """A record as bytes, to be kept beside tensors."""
    return torch.tensor(list(json.dumps(dict(about)).encode()), dtype=torch.uint8, device="cpu")


def unpacked(data: Tensor) -> dict[str, Any]:
    """The record of `packed`."""
    return json.loads(bytes(data.tolist()).decode())
