"""The section of a report on the image at a time of the chain: what was promised of it and what it is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from retrodict.report.given import Case
from retrodict.report.page import MEAN, SAMPLE, Scale, curve_unit, legend, nice, panel, plot, quantity, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["stopped"]


def stopped(case: Case) -> dict[str, Any] | None:
    """Pictures and curves of `ReportData.stop`; None without it."""
    found = case.data.stop
    if not found:
        return None
    at, z = float(found["at"]), case.middle
    panels = [panel(f"At time {at:g}", _plane(found["image"], z), case.limits, _words(at), aspect=case.aspect)]
    if found.get("sd") is not None:
        sd = _plane(found["sd"], z)
        high = nice(float(np.percentile(sd, 99.5)))
        words = f"What is left to chance at this time. Scale 0 to {short(high)} {case.data.unit}; mean "
        words += f"{quantity(float(sd.mean()), case.data.unit)}."
        panels.append(
            panel("Its deviation", sd, Scale(0.0, high, "inferno", case.data.unit), words, aspect=case.aspect)
        )
    curves = [("mtf", "MTF", ""), ("nps", "NPS", curve_unit(str(found.get("nps_unit", ""))))]
    plots = [
        {
            "title": name,
            "svg": plot(f"stop-{key}", 5.3, 3.0, partial(_draw, found=found, key=key, name=name, unit=unit)),
        }
        for key, name, unit in curves
    ]
    return {"panels": panels, "plots": plots}


def _words(at: float) -> str:
    return (
        f"One draw of the state at time {at:g} between restored (0) and measured (1): an image as an instrument with "
        "the curves below takes it. Less is made up here than in the restored image, and less is sharp."
    )


def _plane(values: Any, z: int) -> np.ndarray:
    """The slice z of values (C, H, W) or (C, Z, H, W), of the first channel."""
    array = np.asarray(values)
    plane = array[0, z] if array.ndim == 4 else array[0]
    return np.abs(plane) if np.iscomplexobj(plane) else plane


def _draw(axes: Axes, found: Mapping[str, Any], key: str, name: str, unit: str) -> None:
    frequency, pair = found["frequency_per_mm"], found[key]
    axes.plot(frequency, pair["promised"], color=MEAN, label="promised")
    axes.plot(frequency, pair["measured"], "o", color=SAMPLE, markersize=3.2, label="measured")
    axes.set(xlabel="spatial frequency / (cycles/mm)", ylabel=f"{name} / ({unit})" if unit else name)
    axes.set_ylim(bottom=0)
    legend(axes)
