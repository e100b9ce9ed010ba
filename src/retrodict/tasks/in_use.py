"""The last factor on the predicted spread: that with which it is right as images are restored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from retrodict._random import key
from retrodict.denoisers.network import NetDenoiser, rms_level
from retrodict.denoisers.spread_scale import SpreadScale, hats
from retrodict.models.instrument import AROUND, measured_inside
from retrodict.processes.clocks import ClockLaw
from retrodict.processes.observation import wiener
from retrodict.samplers.ensemble import SamplingOptions, restore_batch
from retrodict.tasks.held_out import IMAGES, center

__all__ = ["in_use"]

INSTRUMENTS = 4
"""Instruments of the law that measure every image."""

BORDER = 8
"""Pixels that are not looked at: one call knows one margin around an image, and members with margins of their own say
what that costs."""

NODES = (0.1, 0.5, 0.9)
"""Quantiles of the noise level between which the factor is a line."""

LEAST, MOST = 0.7, 1.5
"""Of the factor: more says that something else is wrong."""


def in_use(
    denoiser: NetDenoiser, law: ClockLaw, patients: Mapping[str, Sequence[tuple[Tensor, float]]], seed: int = 0
) -> SpreadScale | None:
    """The factors of `denoiser`, times a function of the noise level that makes SSR^2 = 1 where patients count alike.

    The factors by level and frequency (`training.calibrate_law`) come from patches that are periodic, of states
    anywhere along their ramps, and count by their error.  A restoration meets instruments at their ends, on images
    that are not periodic; and a patient who errs little counts as much as another.  So the middle of every image is
    measured by instruments of the law, restored by one call, and squared error over variance, averaged over a patient's
    images, is fitted by a line over the level that is broken once (least squares).

    patients: of each, pairs of a clean image `(C, *N)` in model units and its pixel spacing in mm.  The factors stay as
    they are for fewer than two patients, and where the denoiser gives no uncertainty to measure.
    """
    scale = denoiser.spread_scale
    if scale is None or len(patients) < 2:
        return scale
    rows = [_rows(denoiser, law, x[:IMAGES], key(seed, f"in-use-{n}")) for n, x in enumerate(patients.values())]
    rows = [r for r in rows if len(r)]
    if not rows:
        return scale
    weight = torch.cat([torch.full((len(r),), 1 / len(r), dtype=torch.float64, device="cpu") for r in rows])
    nodes, values = _broken_line(torch.cat(rows), weight)
    at = torch.tensor(scale.level, dtype=torch.float64, device="cpu")
    found = torch.einsum("k,kn->n", values, hats(nodes, at)).clamp(LEAST, MOST)
    factors = zip(found.tolist(), scale.factor, strict=True)
    return replace(scale, factor=tuple(tuple(f * x for x in row) for f, row in factors))


def _rows(denoiser: NetDenoiser, law: ClockLaw, images: Sequence[tuple[Tensor, float]], seed: int) -> Tensor:
    """Noise level, and squared error over variance, of every image under every instrument, `(n, 2)`."""
    found, options = [], SamplingOptions(samples=2, instant=True)
    for i, (image, spacing) in enumerate(images):
        basis = replace(denoiser.process.basis, spacing=(spacing,) * denoiser.process.ndim)
        for k in range(INSTRUMENTS):
            own = key(seed, f"instrument-{k}", i)
            bound = denoiser.at(law.instrument(basis, own))
            y, truth = (center(x) for x in (measured_inside(bound.process, image[None], own, AROUND)[0], image))
            result = restore_batch(bound, y[None], replace(options, seed=own))
            if result.sd is None:
                continue
            inside = (..., *(slice(BORDER, -BORDER) if n > 4 * BORDER else slice(None) for n in truth.shape[1:]))
            error, variance = (x.double()[inside].square().mean() for x in (result.mean[0] - truth, result.sd[0]))
            found.append(torch.stack([_level(bound.on(tuple(y.shape[1:]))), (error / variance).cpu()]))
    return torch.stack(found) if found else torch.zeros(0, 2, dtype=torch.float64, device="cpu")


def _level(denoiser: NetDenoiser) -> Tensor:
    """What `NetDenoiser.noise_level` is of a measurement on this grid."""
    basis, law, power = denoiser.process.basis, denoiser.process.measurement, denoiser.data_power
    assert law is not None
    assert denoiser.unit is not None
    v = wiener(law, power)[1].reshape(1, -1, *basis.shape)
    return rms_level(v, power, basis, denoiser.unit)[0, 0].cpu()


def _broken_line(rows: Tensor, weight: Tensor) -> tuple[list[float], Tensor]:
    """Nodes (levels) and values of the ratio as a line that is broken once, by weighted least squares."""
    level, ratio = rows.double().unbind(1)
    nodes: list[float] = []
    for node in torch.quantile(level, torch.tensor(NODES, dtype=torch.float64, device="cpu")).tolist():
        nodes.append(max(node, *(n + 1e-6 for n in nodes[-1:]), -math.inf))
    matrix, mean = hats(nodes, level).T, (weight * ratio).sum() / weight.sum()
    held = 1e-3 * weight.sum() * torch.eye(len(nodes), dtype=torch.float64, device="cpu")  # without images: the mean
    square = (matrix * weight[:, None]).T @ matrix + held
    return nodes, mean + torch.linalg.solve(square, matrix.T @ (weight * (ratio - mean)))
