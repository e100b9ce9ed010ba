"""Records of curves that were estimated from an image: the JSON that `restore` and `FourierProcess` take, labelled."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from retrodict._output import stamp
from retrodict.data import Image, acquisition, fingerprints
from retrodict.metrics.blind import BlindFit, Misfit
from retrodict.metrics.patch_power import PatchPower

__all__ = ["METHOD", "curve_record", "summary_of"]


METHOD = "estimated from the image itself, not measured"


def summary_of(fit: BlindFit, data: PatchPower, image: Image, kernel: tuple[str, str] | None) -> dict[str, Any]:
    """The numbers of an estimate: noise, resolution, where from, and how well the families describe the noise.

    Of a curve that was given there are none: its parameters do not enter the likelihood.
    """
    found: dict[str, Any] = {"unit": image.unit, "nyquist": 0.5 / max(data.spacing), "parameters": {}}
    if fit.law.nps is None:
        found["noise_sd"] = _three(fit.noise_sd())
        found["parameters"] |= {n: fit.value(n) for n in ("ramp", "window", "steep", "floor")}
    if fit.law.mtf is None:
        found["mtf50"] = _three(fit.mtf50())
        found["parameters"] |= {n: fit.value(n) for n in ("half", "power", "lift")}
    return found | {
        "patches": len(data.power),
        "patches_with_edges": round(fit.edges, 1),
        "patches_of_noise": round(fit.quiet, 1),
        "patches_left_out": data.flat,
        "uneven": fit.uneven,
        "anisotropy": fit.anisotropy,
        "information": fit.information,
        "kernel": None if kernel is None else {"name": kernel[0], "family": kernel[1]},
        "misfit": _misfit(fit.misfit),
    }


def curve_record(
    quantity: str, f: Tensor, found: tuple[Tensor, Tensor, Tensor], unit: str, summary: dict[str, Any], image: Image
) -> dict[str, Any]:
    """A curve `(value, lower, upper)` over f as a record; "quantity" says what it is, "method" that it is estimated."""
    value, lower, upper = (torch.nan_to_num(x).clamp_min(0.0).tolist() for x in found)
    return {
        "format": "retrodict-measurement-1",
        "quantity": quantity,
        "frequency": f.tolist(),
        "value": value,
        "lower": lower,
        "upper": upper,
        "unit": unit,
        "frequency_unit": "cycles/mm",
        "summary": {**summary, "band": "95 %, of the likelihood and the scatter between patients"},
        "method": {"kind": METHOD, "likelihood": "Whittle, scale mixture of patches"},
        "provenance": {
            "files": fingerprints(list(image.source)),
            "pixel_spacing_mm": list(image.spacing[-2:]),
            "unit": image.unit,
            "acquisition": acquisition(list(image.source)),
            **stamp(),
        },
    }


def _misfit(misfit: Misfit) -> dict[str, float | None]:
    """The noise of the quiet patches against its family; None where there are too few of them."""
    if math.isnan(misfit.p_value):
        return {"p_value": None, "worst_ratio": None, "at": None}
    worst = int(misfit.ratio.log().abs().argmax())
    ratio, at = float(misfit.ratio[worst]), float(misfit.frequency[worst])
    return {"p_value": misfit.p_value, "worst_ratio": ratio, "at": at}


def _three(values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("value", "lower", "upper"), values, strict=True))
