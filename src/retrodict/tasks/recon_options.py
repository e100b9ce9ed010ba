"""The options of a reconstruction, written down once: Python and the command line take them from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, get_type_hints

from retrodict._check import InputError, choice
from retrodict.posterior import POSTERIORS
from retrodict.tasks.options import Option
from retrodict.tasks.recon_config import PROBLEMS
from retrodict.tasks.recon_regions import boxes_of

__all__ = ["FORMATS", "ReconstructOptions", "described"]

FORMATS = ("nifti", "tiff", "npz")
"""Formats of results whose input is no image."""


@dataclass(frozen=True)
class ReconstructOptions:
    """How a measurement is reconstructed; every field is a keyword of `reconstruct` and a flag of the command line.

    `config` is a YAML file or a mapping (`docs/howto-sinogram.md`), `field` lays `key=value` texts over it; `set` is a
    mapping of settings of the method, or `name=value` texts.  `method` None is the usual one of the problem.
    `posterior` draws samples with `model` as prior, or with a Gaussian one of `prior_spectrum`; these, `hold_out`,
    `samples`, `calls`, `method_posterior`, `coupling`, `region` and `seed` are of it; `set` then holds settings of the
    method.

    Raises `InputError` for numbers below their bound and for names that are none.
    """

    config: Annotated[Any, Option("YAML file that describes the measurement.")] = None
    field: Annotated[
        Sequence[str], Option("One entry of the description, such as scan.pitch=0.2; may be repeated.")
    ] = ()
    problem: Annotated[str | None, Option(f"What was measured: {', '.join(PROBLEMS)}.")] = None
    method: Annotated[str | None, Option("Classical method, such as fbp, fista or cg_sense.")] = None
    set: Annotated[Any, Option("A setting of the method, such as strength=50 or filter=hann; may be repeated.")] = ()
    sigma: Annotated[str | float | None, Option("Deviation of the noise in the unit of the data, or estimate.")] = None
    psf: Annotated[str | None, Option("Image of the PSF, for deblur.")] = None
    mask: Annotated[str | None, Option("Image of what was measured, for inpaint.")] = None
    factor: Annotated[int | None, Option("Times finer pixels, for super_resolution.", least=2)] = None
    posterior: Annotated[bool, Option("Draw samples of the posterior with a prior, instead of one image.")] = False
    model: Annotated[Any, Option("Prior of --posterior: a shipped model or the path of one (default: ct).")] = None
    prior_spectrum: Annotated[
        str | None,
        Option("Gaussian prior instead of a model: fit (its spectrum is found from the data), or a file or folder of "
               "images that have it."),
    ] = None  # fmt: skip
    hold_out: Annotated[
        float | None,
        Option("Share of the data to leave out and predict, such as 0.1: tests the intervals without a truth."),
    ] = None
    samples: Annotated[int | None, Option("Samples of the posterior (default: 16).", least=2)] = None
    calls: Annotated[
        int | None, Option("Calls of the network for every sample (default: those of the method).", least=1)
    ] = None
    method_posterior: Annotated[
        str | None, Option("Posterior method, such as matched, fuse or dps (default: fuse if it can be, else matched).")
    ] = None
    coupling: Annotated[
        float | None,
        Option("Correlation of neighboring slices of a volume, such as 0.8: its slices are drawn together "
               "(default: one by one)."),
    ] = None  # fmt: skip
    region: Annotated[
        Sequence[Any], Option("Region whose mean is told with an interval: row,column,height,width; may be repeated.")
    ] = ()
    seed: Annotated[int | None, Option("Number that the samples are drawn from (default: 0).", least=0)] = None
    simulate: Annotated[bool, Option("Measure the image INPUT first, as the entries simulate.* say.")] = False
    spacing: Annotated[
        Sequence[float] | None, Option("Pixel spacing in mm (rows,columns) for images that have none.")
    ] = None
    unit: Annotated[str | None, Option("Unit of the values for images that have none, such as HU.")] = None
    format: Annotated[str, Option(f"Format of results whose input is no image: {', '.join(FORMATS)}.")] = "nifti"
    threads: Annotated[
        int | None, Option("CPU threads, at most the cores that there are (default: all of them).", least=1)
    ] = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name, (option, _) in described().items():
            value = getattr(self, name)
            if option.least is not None and value is not None and value < option.least:
                raise InputError(name, value, f"at least {option.least}")
        choice("format", self.format, FORMATS)
        if self.problem is not None:
            choice("problem", self.problem, PROBLEMS)
        self._check_posterior()
        if isinstance(self.sigma, str) and self.sigma != "estimate":
            try:
                object.__setattr__(self, "sigma", float(self.sigma))
            except ValueError as error:
                raise InputError("sigma", repr(self.sigma), "a positive number, or estimate") from error
        if isinstance(self.sigma, float | int) and not self.sigma > 0:
            raise InputError("sigma", self.sigma, "a positive number, or estimate")

    def _check_posterior(self) -> None:
        object.__setattr__(self, "region", boxes_of(self.region))
        if self.hold_out is not None and not 0 < self.hold_out < 1:
            raise InputError("hold_out", self.hold_out, "a share between 0 and 1, such as 0.1")
        if self.coupling is not None and not 0 < self.coupling < 1:
            raise InputError("coupling", self.coupling, "a correlation above 0 and below 1, such as 0.8")
        if self.posterior:
            if self.model is not None and self.prior_spectrum is not None:
                raise InputError(
                    "prior_spectrum", repr(self.prior_spectrum), "none beside a model", "Give one of them."
                )
            if self.method is not None:
                hint = "Use {method_posterior} for a posterior method."
                raise InputError("method", repr(self.method), "none with a posterior", hint, method_posterior="matched")
            choice("method_posterior", self.method_posterior or "auto", ("auto", *POSTERIORS))
            return
        own = (
            "model",
            "prior_spectrum",
            "hold_out",
            "samples",
            "calls",
            "method_posterior",
            "coupling",
            "region",
            "seed",
        )
        for name in own:
            value = getattr(self, name)
            if value not in (None, ()):
                raise InputError(name, value, "nothing without a posterior", "Add {posterior}.", posterior=True)

    @classmethod
    def of(cls, changes: Mapping[str, Any], extra: Sequence[str] = ()) -> ReconstructOptions:
        """The defaults with `changes`; an unknown name is answered with the nearest, of these or of `extra`."""
        for name in changes:
            choice("option", name, [*described(), *extra])
        return cls(**changes)

    def entries(self) -> list[str]:
        """What the flags say, as entries of the description."""
        out = list(self.field)
        for name, key in (("problem", "problem"), ("mask", "mask"), ("factor", "factor"), ("sigma", "noise.sigma"),
                          ("psf", "blur.psf")):  # fmt: skip
            value = getattr(self, name)
            if value is not None:
                text = str(value)
                out.append(f"{key}={text!r}" if isinstance(value, str) and name in ("psf", "mask") else f"{key}={text}")
        return out


@cache
def described() -> dict[str, tuple[Option, Any]]:
    """Of every field its `Option` and its bare type."""
    hints = get_type_hints(ReconstructOptions, include_extras=True)
    return {f.name: (hints[f.name].__metadata__[0], hints[f.name].__origin__) for f in fields(ReconstructOptions)}
