"""The demonstration: real CT slices are measured by a simulated instrument and restored through the ordinary path."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch

from retrodict._check import InputError
from retrodict._output import write_file
from retrodict.data import Image, read, write
from retrodict.models.instrument import measure, model_with_instrument
from retrodict.models.model import Model, open_model
from retrodict.models.range import at_spacing
from retrodict.tasks.restore import Restored, Watch, restore
from retrodict.tasks.results import check_folder

__all__ = ["CURVES", "SLICES", "Demonstration", "again", "run_demo"]


SLICES = ("chest-1", "chest-2")
"""Shipped slices of a patient that neither training nor calibration has seen, in HU at pixels of 0.81 and 0.70 mm."""


CURVES = ("scanner-mtf.json", "scanner-nps.json")
"""Shipped curves of a simulated scanner with 30 HU of noise, that the model was not trained on: MTF and NPS."""


@dataclass(frozen=True)
class Demonstration:
    """A restoration beside its truth; errors are root mean squares in HU, `spread` that of the ensemble."""

    restored: Restored
    measured_rmse: float
    wiener_rmse: float
    rmse: float
    spread: float


def run_demo(
    out: Path, *, samples: int = 8, slices: int = 2, force: bool = False, watch: Watch | None = None
) -> list[Demonstration]:
    """Simulate, write and restore the shipped slices; results, measured DICOM files and `CURVES` go to `out`.

    Raises `InputError` for files of an earlier demonstration without `force`, before anything is computed.
    """
    model = open_model("ct")
    out, assets = Path(out), Path(str(resources.files("retrodict") / "assets"))
    measured_files = [out / f"{name}-measured.dcm" for name in SLICES[:slices]]
    for path in [*measured_files, *(out / name for name in CURVES)]:
        if path.exists() and not force:
            hint = "Use {force} to replace it."
            raise InputError(path, "a file of an earlier run", "a new output folder", hint, force=True)
    for path in measured_files:
        check_folder(out, path.stem, (), force)
    given = _curves(assets, out)
    results = []
    for index, name in enumerate(SLICES[:slices]):
        truth = read(assets / f"{name}.dcm")
        description = "simulated measurement (standard kernel, 30 HU of noise)"
        scanner, _ = model_with_instrument(at_spacing(model, truth.spacing[-2:]), given["mtf"], given["nps"])
        measured = measure(truth, scanner, seed=index)
        path = measured_files[index]
        write(measured, path, like=truth, role="measured", description=description, force=force)
        options = {**given, "samples": samples, "truth": truth, "force": force, "watch": watch}
        restored = restore(path, out, model=model, **options)
        results.append(_compare(restored, truth, restored.model))
    return results


def again(out: Path) -> str:
    """The command that restores the first measured slice once more, with the curves beside it."""
    mtf, nps = (out / name for name in CURVES)
    words = ["retrodict", "restore", out / f"{SLICES[0]}-measured.dcm", "-o", "restored", "--mtf", mtf, "--nps", nps]
    return shlex.join(map(str, words))


def _curves(assets: Path, out: Path) -> dict[str, Path]:
    """The shipped curves, copied to where the results go: at hand for another restoration."""
    out.mkdir(parents=True, exist_ok=True)
    copies = [write_file(out / name, (assets / name).read_bytes()) for name in CURVES]
    return dict(zip(("mtf", "nps"), copies, strict=True))


def _compare(restored: Restored, truth: Image, model: Model) -> Demonstration:
    y = model.intensity.encode(restored.input.values[None])
    denoiser = model.denoiser.on(y.shape[2:])
    wiener = model.intensity.decode(denoiser.gaussian()(y, torch.ones(1, dtype=torch.float64, device="cpu")))[0]

    def rms(values: torch.Tensor) -> float:
        return float(((values - truth.values).double() ** 2).mean().sqrt())

    sd = restored.sd
    spread = float("nan") if sd is None else float((sd.values.double() ** 2).mean().sqrt())
    return Demonstration(restored, rms(restored.input.values), rms(wiener), rms(restored.mean.values), spread)
