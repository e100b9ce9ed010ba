"""What is fuzzed: intact samples of everything that the package reads, and what is done with each."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from unittest import mock

import numpy as np
import torch
import yaml

from fuzz_damage import BYTES, IMAGES, SYSTEM, Damage
from fuzz_records import COMMANDS, RECORDS, command, override
from retrodict import InputError, NotCalibratedError, restore_all
from retrodict._check import OutputError
from retrodict.bases import Fourier
from retrodict.bases.curve import Curve
from retrodict.bases.spectrum import Spectrum
from retrodict.cli import main
from retrodict.data import Source, discover, read, write
from retrodict.data.io import check_writable
from retrodict.models.instrument import model_with_instrument
from retrodict.models.model import Intensity, ModelSpec, load_model, save_model
from retrodict.processes import PROCESSES
from retrodict.processes.recipes import process_to_recipe
from retrodict.tasks.evaluate import evaluate
from retrodict.tasks.evaluate_methods import load_evaluation
from retrodict.tasks.fit import fit, prepare_fit
from retrodict.tasks.fit_config import load_config
from retrodict.tasks.options import RestoreOptions
from retrodict.tasks.restore import restore_image

SAMPLES: dict[str, Path] = {}
"""The folder of the intact samples, set by `prepare`."""

REFUSALS = (InputError, OutputError, NotCalibratedError)
FORMATS = {
    "scan.dcm": "dicom", "rle.dcm": "dicom", "implicit.dcm": "", "deflated.dcm": "", "bare": "dicom",
    "volume.nii": "nifti", "volume.nii.gz": "nifti", "plain.tif": "tiff", "packed.tif": "tiff", "stack.tif": "tiff",
    "gray.png": "png", "color.png": "png", "plain.npz": "npz", "packed.npz": "npz", "plain.mha": "metaimage",
    "packed.mha": "metaimage", "raw.nrrd": "nrrd", "packed.nrrd": "nrrd",
}  # fmt: skip


class LateError(Exception):
    """A fault of the input that was found only when its result was written."""


# ---- intact samples --------------------------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Write the samples; everything that follows damages copies of them."""
    folder.mkdir(parents=True)
    SAMPLES["root"] = folder
    images(folder / "images")
    series(folder / "series")
    models(folder / "model")
    training(folder / "fit")
    evaluation(folder / "evaluation")
    SAMPLES["model"] = folder / "model" / "model"


def values(shape: tuple[int, ...] = (20, 24), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 100, shape).round().astype(np.int16)


def dicom(path: Path, seed: int = 0, z: float = 0.0, number: int = 1, syntax: str = "1.2.840.10008.1.2.1") -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"1.2.3.{seed}.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.9"
    ds.Modality, ds.PatientName, ds.PatientID = "CT", "Doe^Jane", "P7"
    ds.ImageType, ds.SeriesDescription = ["ORIGINAL", "PRIMARY", "AXIAL"], "Thorax"
    ds.SeriesNumber, ds.InstanceNumber, ds.SliceThickness = 3, number, 2.0
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0.0, 0.0, z], [1.0, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.WindowCenter, ds.WindowWidth = [1.0, 1.0], 40, 400
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    pixels = values(seed=seed) + 1024
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 16, 16, 15, 1, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.add_new("PixelData", "OW", pixels.astype("<i2").tobytes())
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax.endswith(".5"):
        ds.compress(syntax)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path, enforce_file_format=True, implicit_vr=syntax == "1.2.840.10008.1.2", little_endian=True)


def images(folder: Path) -> None:
    import nibabel
    import tifffile
    from PIL import Image

    folder.mkdir()
    syntaxes = {"rle": "1.2.840.10008.1.2.5", "implicit": "1.2.840.10008.1.2", "deflated": "1.2.840.10008.1.2.1.99"}
    for name in ("scan", *syntaxes):
        dicom(folder / f"{name}.dcm", syntax=syntaxes.get(name, "1.2.840.10008.1.2.1"))
    shutil.copy(folder / "scan.dcm", folder / "bare")
    volume = values((4, 20, 24))
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:3, 3] = (-10, 5, 30)
    for name in ("volume.nii", "volume.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(volume.T, affine), folder / name)
    cm = {"resolution": (10.0, 10.0), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(folder / "plain.tif", values().astype(np.uint16), **cm)
    tifffile.imwrite(folder / "packed.tif", values().astype(np.float32), compression="zlib", **cm)
    tifffile.imwrite(folder / "stack.tif", volume.astype(np.float32), imagej=True, resolution=(1.0, 1.0),
                     metadata={"spacing": 2.0, "unit": "mm", "axes": "ZYX"})  # fmt: skip
    Image.fromarray(values().astype(np.uint16)).save(folder / "gray.png")
    Image.fromarray(values((20, 24, 3)).astype(np.uint8)).save(folder / "color.png")
    arrays = {"image": values().astype(np.float32), "spacing": np.array([1.0, 1.0]), "unit": np.array("HU")}
    np.savez(folder / "plain.npz", **arrays)
    np.savez_compressed(folder / "packed.npz", **arrays)
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += ["TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = -10 5 30", "ElementSpacing = 1 1 2", "DimSize = 24 20 4"]
    for name, packed in (("plain", False), ("packed", True)):
        last = [f"CompressedData = {packed}", "ElementType = MET_SHORT", "ElementDataFile = LOCAL", ""]
        content = volume.astype("<i2").tobytes()
        (folder / f"{name}.mha").write_bytes(
            "\n".join(lines + last).encode() + (zlib.compress(content) if packed else content)
        )
    for name, encoding in (("raw", "raw"), ("packed", "gzip")):
        head = ["NRRD0004", "type: short", "dimension: 3", f"encoding: {encoding}", "sizes: 24 20 4", "endian: little"]
        head += ["space: left-posterior-superior", "space directions: (1,0,0) (0,1,0) (0,0,2)", "space origin: (0,0,0)"]
        content = volume.astype("<i2").tobytes()
        coded = gzip.compress(content) if encoding == "gzip" else content
        (folder / f"{name}.nrrd").write_bytes("\n".join([*head, "", ""]).encode() + coded)


def series(folder: Path) -> None:
    folder.mkdir()
    for i in range(4):
        dicom(folder / f"im{i}.dcm", seed=i, z=2.0 * i, number=i + 1)


def models(folder: Path) -> None:
    folder.mkdir()
    process = PROCESSES["fourier"](Fourier((32, 32)))
    spec = ModelSpec(
        process=process_to_recipe(process),
        network={"name": "unet", "options": {"width": 8, "multipliers": [1, 2], "padding": "circular"}},
        spectrum=Spectrum.power_law(0.5, 40.0, 0.03, 3.0).to_json(),
        intensity=Intensity("HU", 100.0, 0.0),
        spacing=(1.0, 1.0),
        size=(32, 32),
        bands=2,
        spread_scale={"level": [-1.0, 1.0], "factor": [[1.0, 1.0], [1.0, 1.0]]},
        card={"name": "fuzz"},
    )
    torch.manual_seed(0)
    save_model(spec, spec.build("fuzz").net.state_dict(), folder / "model")
    curve = {"frequency": [0.0, 0.4, 0.8], "unit": "1", "frequency_unit": "cycles/mm", "quantity": "mtf"}
    (folder / "mtf.json").write_text(json.dumps({**curve, "value": [1.0, 0.5, 0.1]}))
    nps = {**curve, "value": [90.0, 50.0, 10.0], "unit": "HU^2 mm^2", "quantity": "nps"}
    (folder / "nps.json").write_text(json.dumps(nps))


def training(folder: Path) -> None:
    """A configuration, its data, and the folder of a run that has two checkpoints and one step to go."""
    folder.mkdir()
    for i, patient in enumerate("abc"):
        np.savez(folder / f"{patient}.npz", image=values((40, 40), i).astype(np.float32), spacing=[1.0, 1.0], unit="HU")
    record = {
        "name": "tiny",
        "spacing": [1.0, 1.0],
        "intensity": {"unit": "HU", "scale": 100.0, "offset": 0.0},
        "process": {"name": "fourier"},
        "network": {"name": "unet", "options": {"width": 8, "multipliers": [1], "padding": "circular"}},
        "bands": 1,
        "data": {"groups": [{"name": p, "paths": [f"{p}.npz"]} for p in "abc"], "patch": [16, 16]},
        "training": {"steps": 2, "batch": 2, "warmup": 1, "decay": 0.0, "checkpoint_every": 1, "threads": 1},
        "card": {"note": "none"},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(record))
    config = load_config(folder / "tiny.yaml")
    fit(prepare_fit(config, folder / "run", folder), folder / "run", tensorboard=False)


def evaluation(folder: Path) -> None:
    """Truths, results of a method, and the configuration that compares them."""
    (folder / "results").mkdir(parents=True)
    dicom(folder / "t.dcm")
    for role, seed in (("mean", 0), ("sd", 3)):
        image = np.abs(values(seed=seed)).astype(np.float32) + 1
        np.savez(folder / "results" / f"t_{role}.npz", image=image, spacing=[1.0, 1.0], unit="HU")
    record = {"kind": "posterior", "sampling": {"members": 4}, "seconds": 1.0}
    (folder / "results" / "t_restore.json").write_text(json.dumps(record))
    config = {"truth": ["t.dcm"], "methods": [{"name": "m", "path": "results"}], "bootstrap": 100, "bands": 2}
    (folder / "e.yaml").write_text(yaml.safe_dump({**config, "name": "e", "uniform": [[2, 2, 8]], "data_range": 2000}))


# ---- the list of cases -----------------------------------------------------------------------------------------------


def kinds() -> list[tuple[str, int]]:
    """surface/sample/fault and how often it comes in a round."""
    found = []
    for name, format_ in FORMATS.items():
        own = IMAGES.get(format_, {})
        found += [(f"read/{name}/{fault}", 3 if fault in own else 1) for fault in (*BYTES, *SYSTEM, *own)]
    found += [(f"series/im2.dcm/{fault}", 1) for fault in (*BYTES, *SYSTEM, *IMAGES["dicom"])]
    found += [(f"folder/{name}/{fault}", 0) for name, fault in
              (("scan.dcm", "value"), ("volume.nii", "field"), ("plain.mha", "line"), ("plain.tif", "field"),
               ("scan.dcm", "renamed"), ("scan.dcm", "no file"), ("plain.npz", "truncate"))]  # fmt: skip
    for suffix, names in ((".json", ("model.json",)), (".safetensors", ("model.safetensors",))):
        found += [(f"model/{n}/{fault}", 9 if fault == "value" else 2) for n in names for fault in RECORDS[suffix]]
    for name in ("state.json", "weights.safetensors", "average.safetensors", "optimizer.safetensors"):
        found += [(f"checkpoint/{name}/{fault}", 1) for fault in (*RECORDS[Path(name).suffix], *SYSTEM)]
    found += [(f"checkpoint/{name}/{fault}", 1) for name in ("config.json", "tiny.json", "tiny.safetensors")
              for fault in ("truncate", "no file")]  # fmt: skip
    found += [(f"config/tiny.yaml/{fault}", 5 if fault in ("value", "text") else 1) for fault in RECORDS[".yaml"]]
    found += [("override/tiny.yaml/word", 10)]
    found += [(f"evaluation/e.yaml/{fault}", 3 if fault in ("value", "text") else 1) for fault in RECORDS[".yaml"]]
    found += [(f"details/t_restore.json/{fault}", 1) for fault in RECORDS[".json"]]
    found += [(f"curve/{n}/{fault}", 2 if fault == "value" else 1) for n in ("mtf.json", "nps.json")
              for fault in RECORDS[".json"]]  # fmt: skip
    return found + [(f"command/{'-'.join(name.split())}/words", 2) for name in COMMANDS]


def cases(count: int) -> list[str]:
    """The first `count` cases: rounds through all kinds, so that a short run meets every one of them."""
    return [case for case, _ in zip(_endless(), range(count), strict=False)]


def _endless() -> Iterator[str]:
    numbers: dict[str, int] = {}
    for turn in range(10**6):
        for kind, often in kinds():
            for _ in range(max(often, 1) if often or turn % 4 == 0 else 0):
                numbers[kind] = numbers.get(kind, -1) + 1
                yield f"{kind}/{numbers[kind]}"


# ---- what is done with a case ----------------------------------------------------------------------------------------


def run(surface: str, sample: str, fault: str, folder: Path, rng: Random) -> tuple[str, str]:
    """(ok or refused, what was said); any other exception is a finding."""
    try:
        return "ok", SURFACES[surface](sample, fault, folder, rng) or ""
    except REFUSALS as error:
        return "refused", str(error)


def leftovers(folder: Path, end: str) -> list[str]:
    """What must not be there at the end of a case: staging, and results of what was refused."""
    found = [p for p in walk(folder) if ".tmp" in p.name or ".old-" in p.name]
    if end == "refused" and (folder / "out").exists():
        found += [p for p in walk(folder / "out") if not p.is_dir()]
    return [ascii(str(p.relative_to(folder))) for p in found]


def walk(folder: Path) -> list[Path]:
    return [Path(top, name) for top, _, files in os.walk(folder) for name in files] + [
        Path(top, name) for top, folders, _ in os.walk(folder) for name in folders
    ]


def damaged(path: Path, fault: str, table: dict[str, Damage], rng: Random) -> None:
    table[fault](path, rng)


def _read(sample: str, fault: str, folder: Path, rng: Random) -> str:
    inside = folder / "in"
    inside.mkdir()
    path = inside / sample
    shutil.copy(SAMPLES["root"] / "images" / sample, path)
    damaged(path, fault, {**BYTES, **SYSTEM, **IMAGES.get(FORMATS[sample], {})}, rng)
    given: dict = {"unit": rng.choice((None, None, "HU"))}
    if "png" in sample or rng.random() < 0.3:
        given["spacing"] = (1.0, 1.0)
    if rng.random() < 0.3:
        given["slices"] = "independent"
    found = discover(rng.choice((inside, next(inside.iterdir(), inside))))
    for source in found[:2]:
        opened(source, folder / "out", **given)
    return f"{len(found)} found"


def opened(source: Source, out: Path, **given: object) -> None:
    """Read, check, write and read again, as `restore` does."""
    image = read(source, **given)
    if not bool(torch.isfinite(torch.view_as_real(image.values) if image.values.is_complex() else image.values).all()):
        raise AssertionError("values that are not finite were accepted")
    if not all(s > 0 for s in image.spacing if s == s):
        raise AssertionError(f"spacing {image.spacing} was accepted")
    check_writable(image)
    out.mkdir()
    try:
        written = write(image, out / "x", like=image, role="mean", description="fuzz")
    except InputError as error:
        raise LateError(f"{source.format}: {error}") from error
    again = discover(written[0] if len(written) == 1 else out, results=True)
    spacing = image.spacing if image.regular else image.spacing[-2:]
    read(again[0], unit=image.unit, spacing=spacing, slices="volume" if image.regular else "independent", expect=None)


def _series(sample: str, fault: str, folder: Path, rng: Random) -> str:
    inside = folder / "in"
    shutil.copytree(SAMPLES["root"] / "series", inside)
    damaged(inside / sample, fault, {**BYTES, **SYSTEM, **IMAGES["dicom"]}, rng)
    found, said = discover(inside), []
    for i, source in enumerate(found):
        try:
            opened(source, folder / f"out-{i}", slices=rng.choice(("volume", "independent")))
        except REFUSALS as error:
            said.append(str(error))
    return f"{len(found)} found"


def _folder(sample: str, fault: str, folder: Path, rng: Random) -> str:
    """A bad file beside a good one: the good one is restored."""
    inside = folder / "in"
    inside.mkdir()
    shutil.copy(SAMPLES["root"] / "images" / sample, inside / sample)
    shutil.copy(SAMPLES["root"] / "images" / "plain.npz", inside / "good.npz")
    damaged(inside / sample, fault, {**BYTES, **SYSTEM, **IMAGES[FORMATS[sample]]}, rng)
    done = restore_all(inside, folder / "out", model=SAMPLES["model"], samples=2, steps=1, unit="HU", resample=True)
    if not (folder / "out" / "good_mean.npz").exists():
        raise AssertionError(f"the good file was not restored: {done.failures}")
    return f"{len(done.restored)} restored, {len(done.failures)} failed"


def _model(sample: str, fault: str, folder: Path, rng: Random) -> str:
    """Loading says what is wrong; what loads gives finite values."""
    folder = folder / "in"
    shutil.copytree(SAMPLES["root"] / "model", folder)
    damaged(folder / sample, fault, RECORDS[Path(sample).suffix], rng)
    model = load_model(folder / "model")
    image = read(SAMPLES["root"] / "images" / "scan.dcm")
    if model.spec.channels != ("gray",) or len(model.spec.size) != 2 or model.intensity.unit != "HU":
        return "another kind of image"
    options = RestoreOptions(samples=2, steps=1, resample=True, point=True)
    try:
        found = restore_image(image, model, options, name="x")
    except REFUSALS as error:
        if "finite" in str(error) or "NaN" in str(error):
            raise AssertionError(f"found only by computing: {error}") from error
        raise
    if not bool(torch.isfinite(found.mean.values).all()):
        raise AssertionError("a result that is not finite")
    return "restored"


def _checkpoint(sample: str, fault: str, folder: Path, rng: Random) -> str:
    """A run that has one step to go, with damage in its newest checkpoint: it ends as it would have ended."""
    inside = folder / "in"
    shutil.copytree(SAMPLES["root"] / "fit", inside)
    newest = inside / "run" / "checkpoint-00000002"
    target = newest / sample if (newest / sample).exists() else inside / "run" / sample
    damaged(target, fault, {**RECORDS[Path(sample).suffix], **SYSTEM}, rng)
    config = load_config(inside / "tiny.yaml", ["training.steps=3"])
    plan = prepare_fit(config, inside / "run", inside)
    weights = fit(plan, inside / "run", tensorboard=False)
    load_model(weights)
    return f"resumed at {plan.start_step}"


def _config(sample: str, fault: str, folder: Path, rng: Random) -> str:
    inside = folder / "in"
    shutil.copytree(SAMPLES["root"] / "fit", inside, ignore=shutil.ignore_patterns("run"))
    damaged(inside / sample, fault, RECORDS[".yaml"], rng)
    prepare_fit(load_config(inside / sample), folder / "out", inside)
    return "prepared"


def _override(sample: str, fault: str, folder: Path, rng: Random) -> str:
    words = [override(rng) for _ in range(rng.choice((1, 1, 2)))]
    inside = SAMPLES["root"] / "fit"
    prepare_fit(load_config(inside / sample, words), folder / "out", inside)
    return "prepared"


def _evaluation(sample: str, fault: str, folder: Path, rng: Random) -> str:
    inside = folder / "in"
    shutil.copytree(SAMPLES["root"] / "evaluation", inside)
    path = next(inside.rglob(sample))
    damaged(path, fault, RECORDS[path.suffix], rng)
    config, base = load_evaluation(inside / "e.yaml")
    found = evaluate(config, base)
    found.markdown()
    json.dumps(found.record)
    return "evaluated"


def _curve(sample: str, fault: str, folder: Path, rng: Random) -> str:
    folder = folder / "in"
    shutil.copytree(SAMPLES["root"] / "model", folder)
    damaged(folder / sample, fault, RECORDS[".json"], rng)
    name = Path(sample).stem
    Curve.parse(folder / sample, name)
    model, _ = model_with_instrument(load_model(folder / "model"), **{name: folder / sample})
    law = model.denoiser.process.measurement
    if law is None or not all(bool(torch.isfinite(x).all()) for x in (law.h, law.s2)):
        raise AssertionError("a law that is not finite")
    return "used"


def _command(sample: str, fault: str, folder: Path, rng: Random) -> str:
    """A command line ends with a known exit code and prints nothing that a terminal obeys."""
    known = {"in": str(SAMPLES["root"] / "images" / "scan.dcm"), "out": str(folder / "out"),
             "model": str(SAMPLES["model"]), "config": str(SAMPLES["root"] / "fit" / "tiny.yaml"),
             "evaluation": str(SAMPLES["root"] / "evaluation" / "e.yaml")}  # fmt: skip
    name = next(n for n in COMMANDS if "-".join(n.split()) == sample)
    words = command(name, rng, known)
    os.chdir(folder)
    streams = [open(f"{folder}.{n}", "r+") for n in ("stdout", "stderr")]  # noqa: SIM115
    code = 0
    with mock.patch.object(sys, "argv", ["retrodict", *words]):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 99
    sys.stdout.flush(), sys.stderr.flush()
    text = "".join(stream.read() for stream in streams)
    bad = sorted({c for c in text if not c.isprintable() and c not in "\n\r"})
    if "Traceback" in text or code not in (0, 2, 3, 4, 5, 130):
        raise AssertionError(f"exit code {code}: {ascii(words)[:300]}: {text[-300:]!a}")
    if bad:
        raise AssertionError(f"{bad!a} in the terminal: {ascii(words)[:300]}")
    if code and not text.strip():
        raise AssertionError(f"exit code {code} without a word: {ascii(words)[:300]}")
    if code:
        raise InputError("command", ascii(words)[:300], f"exit code {code}")
    return "done"


SURFACES: dict[str, Callable[[str, str, Path, Random], str]] = {
    "read": _read, "series": _series, "folder": _folder, "model": _model, "checkpoint": _checkpoint,
    "config": _config, "override": _override, "evaluation": _evaluation, "details": _evaluation, "curve": _curve,
    "command": _command,
}  # fmt: skip
