"""Proof that a refactoring changed nothing: hashes of everything a user gets, on one thread.

    python benchmarks/golden.py            # compare with benchmarks/results/golden.json; exit code 1 where one differs
    python benchmarks/golden.py --write    # take today's values as the golden ones
    python benchmarks/golden.py --only rules,cards

Tensors are hashed bit by bit.  Rounding differs between processors, so the file names the instruction set that it was
made on; on another one, write it anew on the commit before the change (`git stash`, `--write`, `git stash pop`).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import re
import sys
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import torch
import yaml

import retrodict as rd
from retrodict._random import white

FILE = Path(__file__).parent / "results" / "golden.json"
Hashes = dict[str, str]


def first_of(*names: str):
    """The first of several dotted names that exists: this file has to run before and after a move."""
    for name in names:
        module, _, attribute = name.rpartition(".")
        try:
            return getattr(importlib.import_module(f"retrodict.{module}"), attribute)
        except (ImportError, AttributeError):
            continue
    raise ImportError(" or ".join(names))


def digest(value) -> str:
    """SHA-256, shortened, of a tensor, of bytes, or of anything JSON can hold."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        data = f"{value.dtype}{tuple(value.shape)}".encode() + value.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, bytes):
        data = value
    else:
        data = json.dumps(value, sort_keys=True, default=str).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def rounded(value, digits: int = 9):
    """Numbers to `digits` significant ones, inside any nesting."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    return [rounded(v, digits) for v in value] if isinstance(value, list | tuple) else value


CHANGING = {"date", "versions", "seconds", "source", "files", "model", "provenance", "timing"}


def stable(record):
    """A record without dates, versions, paths and times."""
    if isinstance(record, dict):
        return {k: stable(v) for k, v in record.items() if k not in CHANGING}
    return [stable(v) for v in record] if isinstance(record, list | tuple) else record


def page(path: Path, folder: Path) -> str:
    """HTML without times, dates, versions and folders."""
    text = path.read_text().replace(str(folder), "")
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]?[\d:+]*", "", text)
    text = re.sub(r"0x[0-9a-f]{6,}", "", text)  # addresses
    return re.sub(r"\d+(\.\d+)?[ \xa0](s|ms|min)\b", "", text)


def crop(size: int = 64) -> torch.Tensor:
    """Part of a shipped slice, in HU, with white noise of 100 HU."""
    image = rd.read(Path(str(resources.files("retrodict") / "assets" / "chest-1.dcm"))).values
    part = image[:, 70 : 70 + size, 70 : 70 + size][None]
    return part + 100 * white([7], "golden", 0, part.shape[1:])


def demo() -> Hashes:
    """Both demonstration slices, files included."""
    run_demo, pydicom = first_of("tasks.demo.run_demo", "demo.run_demo"), importlib.import_module("pydicom")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out: Hashes = {}
        for item in run_demo(folder, samples=2, slices=2, **STEPS):
            restored = item.restored
            out[f"{restored.name} mean"] = digest(restored.mean.values)
            out[f"{restored.name} sd"] = digest(restored.sd.values)
            out[f"{restored.name} errors"] = digest(rounded([item.rmse, item.wiener_rmse, item.spread], 6))
            out[f"{restored.name} record"] = digest(stable(restored.details))
        for path in sorted(folder.rglob("*.dcm")):
            data = pydicom.dcmread(path)
            out[f"{path.name} pixels"] = digest(data.PixelData)
            tags = {e.keyword: str(e.value) for e in data if e.VR not in ("UI", "DA", "TM", "OW", "OB", "SQ")}
            out[f"{path.name} tags"] = digest(tags)
        for path in sorted(folder.rglob("*.html")):
            out[f"{path.name}"] = digest(page(path, folder).encode())
    return out


STEPS: dict = {}


def rules() -> Hashes:
    """A crop by every rule, with the shipped model in float32."""
    model = rd.open_model("ct-simulated", "float32")
    y = model.intensity.encode(crop())
    out = {}
    for rule in ("matched", "euler", "ancestral", "ddim", "dpmpp2m", "sde_dpmpp2m", "gaussian_ode"):
        options = rd.SamplingOptions(samples=2, steps=4, rule=rule, uncertainty=False, chunk=2)
        found = rd.restore_batch(model.denoiser, y, options)
        out[rule] = digest(found.mean)
    found = rd.restore_batch(model.denoiser, y, rd.SamplingOptions(samples=2, steps=2, keep_samples=True))
    return {**out, "samples": digest(found.samples), "sd": digest(found.sd)}


def tiny(process, seed: int = 0, bands: int = 2, predicts: str = "wiener"):
    """A random network on 32 x 32 pixels."""
    record = rd.ModelSpec(
        process=process,
        network={"name": "unet", "options": {"width": 8, "multipliers": [1, 2], "padding": "circular"}},
        spectrum=rd.Spectrum.power_law(0.5, 40.0, 0.03, 3.0).to_json(),
        intensity=rd.Intensity("HU", 100.0, 0.0),
        spacing=(1.0, 1.0),
        size=(32, 32),
        bands=bands,
        predicts=predicts,
    )
    torch.manual_seed(seed)
    denoiser = record.build("golden")
    for p in denoiser.net.parameters():
        torch.nn.init.normal_(p, std=0.05)
    denoiser.net.eval()
    return denoiser


def models() -> Hashes:
    """External, mean-reverting and plain-prediction models; two images, two members."""
    instrument = {"name": "fourier", "options": {}}
    external = {"conditioning": "external", "instrument": instrument}
    y = torch.cat([crop(32), crop(40)[..., :32, :32]]) / 100
    out = {}
    cases = {
        "terminal": ({"name": "fourier", "options": {}}, "wiener", 2),
        "external vp": ({"name": "vp", "options": external}, "wiener", 2),
        "mean reverting": ({"name": "mean_reverting", "options": external}, "wiener", 2),
        "cosine eps": ({"name": "cosine", "options": external}, "eps", 0),
    }
    for name, (process, predicts, bands) in cases.items():
        denoiser = tiny(process, predicts=predicts, bands=bands)
        for rule in ("matched", "sde_dpmpp2m"):
            options = rd.SamplingOptions(samples=2, steps=3, rule=rule, uncertainty=False)
            out[f"{name} {rule}"] = digest(rd.restore_batch(denoiser, y, options).mean)
    return out


def cards() -> Hashes:
    """Both Gaussian cards, to nine digits."""
    unconditional = first_of("tasks.gaussian_card.card_unconditional", "bench.card_unconditional")
    restoration = first_of("tasks.gaussian_card.card_restoration", "bench.card_restoration")
    out = {}
    for run in (unconditional, restoration):
        for record in run((1, 8)):
            record.pop("largest_error", None)  # round-off where a sampler is exact
            name = f"{record['setup']} {record['process']} {record['sampler']} {record['steps']}"
            out[name] = digest(rounded({k: record[k] for k in ("gain", "variance", "verdict", "nfe")}))
    return out


def training() -> Hashes:
    """Twenty steps and the calibrated factors."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for patient in "abc":
            smooth = rng.normal(size=(3, 6, 6)).repeat(8, 1).repeat(8, 2) * 100 + rng.normal(size=(3, 48, 48)) * 10
            np.savez(folder / f"{patient}.npz", image=smooth.astype(np.float32), spacing=[2.0, 1.0, 1.0], unit="HU")
        record = {
            "name": "tiny",
            "spacing": [1.0, 1.0],
            "intensity": {"unit": "HU", "scale": 100.0, "offset": 0.0},
            "process": {"name": "fourier"},
            "network": {"name": "unet", "options": {"width": 8, "multipliers": [1, 2], "padding": "circular"}},
            "bands": 2,
            "data": {"groups": [{"name": p, "paths": [f"{p}.npz"]} for p in "abc"], "validation": ["c"]},
            "training": {"steps": 20, "batch": 4, "warmup": 4, "threads": 1},
        }
        record["data"]["patch"] = [16, 16]  # type: ignore[index]
        (folder / "tiny.yaml").write_text(yaml.safe_dump(record))
        config = rd.load_config(folder / "tiny.yaml")
        path = rd.fit(rd.prepare_fit(config, folder / "run", folder), folder / "run", tensorboard=False)
        spec = json.loads(path.with_suffix(".json").read_text())
        return {
            "weights": digest(path.read_bytes()),
            "factors": digest(spec["spread_scale"]),
            "spectrum": digest(spec["spectrum"]),
            "process": digest(spec["process"]),
        }


def measuring() -> Hashes:
    """NPS and MTF of made phantoms, and an evaluation, records without dates."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noise = 20 * white([3], "phantom", 0, (4, 128, 128)).numpy()[0]
        np.savez(folder / "water.npz", image=noise, spacing=[1.0, 0.5, 0.5], unit="HU")
        rows, columns = np.mgrid[0:96, 0:96]
        edge = 1000 / (1 + np.exp(-(columns - 48 - 0.06 * (rows - 48)) / 0.7)) + noise[0, :96, :96] / 10
        np.savez(folder / "edge.npz", image=edge.astype(np.float32), spacing=[0.5, 0.5], unit="HU")
        nps = rd.measure_nps(folder / "water.npz", size=16)
        mtf = rd.measure_mtf(folder / "edge.npz", kind="edge")
        out = {"nps": digest(rounded(stable(nps.record))), "mtf": digest(rounded(stable(mtf.record)))}
        for part in ("truth", "one", "two"):
            (folder / part).mkdir()
        for k in range(3):
            clean = crop(48)[0, 0].numpy() - 40 * k
            for part, level in (("truth", 0.0), ("one", 10.0), ("two", 15.0)):
                image = clean + level * white([k], part, 0, (48, 48)).numpy()[0]
                np.savez(folder / part / f"s{k}.npz", image=image, spacing=[1.0, 1.0], unit="HU")
        config = rd.EvaluationConfig.model_validate(
            {
                "truth": [str(folder / "truth")],
                "methods": [{"name": m, "path": str(folder / m)} for m in ("one", "two")],
                "uniform": [[4, 4, 16]],
                "measured": str(folder / "two"),
            }
        )
        found = rd.evaluate(config, folder)
        record = stable(found.record)
        record.pop("config")
        out["evaluation"] = digest(rounded(record))
        out["evaluation table"] = digest(found.markdown())
        files = found.save(folder / "out")
        out["evaluation page"] = digest(page(next(f for f in files if f.suffix == ".html"), folder).encode())
        return out


PARTS: dict[str, Callable[[], Hashes]] = {
    "rules": rules,
    "models": models,
    "cards": cards,
    "training": training,
    "measuring": measuring,
    "demo": demo,
}


def capability() -> str:
    """What rounding depends on."""
    return f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__.split('+')[0]}"


def main() -> int:
    """Compare or write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    if known and known.get("made_on") != capability() and not arguments.write:
        print(f"made on {known.get('made_on')}, this is {capability()}: write it anew on the commit before the change")
        return 2
    hashes, bad = dict(known.get("hashes", {})), 0
    for part in arguments.only.split(","):
        found = PARTS[part]()
        if arguments.write:
            hashes[part] = found
            print(f"{part}: {len(found)} written")
            continue
        wrong = sorted(k for k in {*found, *hashes[part]} if found.get(k) != hashes[part].get(k))
        print(f"{part}: {len(found) - len(wrong)} of {len(hashes[part])} equal")
        for name in wrong:
            print(f"  differs: {name}")
        bad += len(wrong)
    if arguments.write:
        FILE.write_text(json.dumps({"made_on": capability(), "hashes": hashes}, indent=1) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
