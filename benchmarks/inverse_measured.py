"""Posteriors of measured data: limited-angle and tooth sinograms, and 8-coil k-space, judged by data left out.

    python benchmarks/inverse_measured.py OUT [--data ../shared/data] [--only helsinki tooth kspace] [--samples 8]
    python benchmarks/inverse_measured.py --docs  # the tables of docs/posterior.md, of what was found

No truth is known of these (of the Helsinki disc a segmentation is), so the judge is what was measured and left out: a
tenth of the views of a sinogram, or of the samples of k-space outside the middle, of which `reconstruct --posterior
--hold-out` says how many lie in their 90 % intervals, and how large the error is against what was predicted.  The prior
is Gaussian, its spectrum found from the kept data (`--prior-spectrum fit`): a network of CT in HU is no prior of a
tooth, of acrylic at another energy, or of complex images, and what it says when asked is printed.  The classics are
given the same kept data and predict the same left-out data.

Grids are small, so that all of it takes minutes: Helsinki 70 bins of 1.6 mm and 48 x 48 pixels; tooth 80 bins and 80 x
80 pixels, with the noise of the counts, and once more with more; k-space the middle 72 x 64.  "More": at these pixels
the image, not the detector, is the larger error, so the deviation is that of a second tenth of the data, left out of a
TV reconstruction of the rest; the first tenth, the judge, is in neither.  Writes
benchmarks/results/inverse-measured.json and OUT/posterior-NAME.png.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture

import retrodict
from reconstruct_real import matthews, picture, solid_disc, table
from retrodict import InputError, open_raw
from retrodict.tasks.recon_hardening import otsu
from retrodict.tasks.recon_held_out import HeldOut
from retrodict.tasks.recon_inputs import acquired
from retrodict.tasks.recon_kspace import outer_noise
from retrodict.tasks.recon_options import ReconstructOptions
from tables import replace_block

RESULTS = Path(__file__).resolve().parent / "results" / "inverse-measured.json"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "posterior.md"
SHARE = 0.1
Case = dict[str, Any]


def helsinki(data: Path) -> Case:
    with open_raw(data / "sino_htc2022" / "tb_60deg.mat") as raw:
        y = raw.read("CtDataLimited.sinogram").reshape(-1, 70, 8).mean(-1)
        angles = raw.read("CtDataLimited.parameters.angles")
    truth = np.array(Picture.open(data / "sino_htc2022" / "tb_truth.png")) > 0
    scan = {"beam": "fan", "angles": "a", "angle_unit": "deg", "pitch": 1.6, "source": 410.66, "detector": 553.74,
            "reversed": True, "turn": 180.0}  # fmt: skip
    terms = solid_disc(data / "sino_htc2022")["coefficients"]
    config = {
        "problem": "tomography", "data": "y", "scan": scan, "counts": {"kind": "line_integrals"},
        "image": {"size": 48, "spacing": 0.2966446 * 256 / 48}, "corrections": {"air": 5, "hardening": list(terms)},
    }  # fmt: skip
    classics = {"cgls": {"iterations": 12}, "sirt": {"iterations": 100, "nonnegative": True}}
    classics["fista"] = {"strength": 0.03, "iterations": 60, "tolerance": 1e-4, "nonnegative": True}
    return {"source": {"y": y, "a": angles}, "options": {"config": config}, "classics": classics, "truth": truth,
            "window": (0, 0.05)}  # fmt: skip


def tooth(data: Path) -> Case:
    names = ("exchange/data", "exchange/data_white", "exchange/data_dark", "exchange/theta")
    with open_raw(data / "sino_tooth_aps" / "tooth.h5") as raw:
        arrays = {n: raw.read(n) for n in names}
    binned = {n: a.reshape(*a.shape[:-1], 80, 8).mean(-1) if a.ndim == 3 else a for n, a in arrays.items()}
    field = ["scan.pitch=8", "scan.center=find", "corrections.rings=9", "image.size=80", "image.spacing=8",
             "slices=[0, 1]"]  # fmt: skip
    classics = {"cgls": {"iterations": 12}, "sirt": {"iterations": 100, "nonnegative": True}}
    classics["fista"] = {"strength": 300.0, "iterations": 60, "tolerance": 1e-4, "nonnegative": True}
    return {"source": binned, "options": {"field": field}, "classics": classics, "window": (0, 0.004)}


def kspace(data: Path) -> Case:
    k = np.load(data / "mr_kspace_brain_8ch" / "cartesian_ksp.npy")
    whole = torch.from_numpy(k)
    sigma = outer_noise(whole, (whole.abs().amax(0) > 0).double())  # of the whole: its edge has the least of the object
    y, x = (n // 2 for n in k.shape[1:])
    k = k[:, y - 36 : y + 36, x - 32 : x + 32]
    classics = {"cg_sense": {"iterations": 15}}
    classics["fista"] = {"strength": 30.0, "iterations": 60, "tolerance": 1e-4}
    return {"source": {"kspace": np.ascontiguousarray(k)}, "options": {"sigma": sigma}, "classics": classics}


CASES = {"helsinki": helsinki, "tooth": tooth, "kspace": kspace}


def refusal(case: Case) -> str:
    """What the shipped CT model answers."""
    try:
        retrodict.reconstruct(case["source"], posterior=True, samples=2, calls=1, sigma=case.get("sigma"),
                              **{k: v for k, v in case["options"].items() if k != "sigma"})  # fmt: skip
    except InputError as error:
        return str(error)
    raise AssertionError("the shipped model was taken as a prior of these data")


def classical(case: Case, options: ReconstructOptions) -> tuple[list[Case], dict[str, torch.Tensor], float]:
    """Rows and images of the classics on the kept data, and the deviation of TV from data it did not see."""
    made = acquired(case["source"], options)[0]
    kept, held = HeldOut(SHARE).of(made, 0)
    rows, images = [], {}
    for method, settings in case["classics"].items():
        started = time.process_time()
        image = retrodict.reconstruct(kept, method=method, set=settings).image.values[None]
        seconds = time.process_time() - started
        residual = float(held.relative_residual(image))
        row = {"method": method, "held_residual": residual, "seconds": seconds}
        if held.noise is not None:
            row["chi2"] = float(held.misfit(image).ratio)
        rows.append(row)
        images[method] = image[0, 0]
    fitted, other = HeldOut(SHARE, 1).of(HeldOut(SHARE).kept(made), 0)
    image = retrodict.reconstruct(fitted, method="fista", set=case["classics"]["fista"]).image.values[None]
    size = other.residual(image).abs().double().square().sum() / other.count
    return rows, images, float(size.sqrt())


def posterior(case: Case, sigma: float | str | None, samples: int) -> tuple[Case, Any]:
    """The row of `reconstruct --posterior --prior-spectrum fit --hold-out 0.1`."""
    options = {k: v for k, v in case["options"].items() if k != "sigma"}
    started = time.process_time()
    found = retrodict.reconstruct(
        case["source"], posterior=True, prior_spectrum="fit", hold_out=SHARE, samples=samples, sigma=sigma, **options
    )
    details, told = found.details["posterior"], found.details["held_out"]
    made = acquired(case["source"], ReconstructOptions(sigma=sigma, **options))[0]  # results are in its operator's unit
    _, held = HeldOut(SHARE).of(made, 0)
    row = {
        "method": "posterior", "sigma": sigma, "kind": found.kind, "said": details["said"],
        "misfit": details["misfit"][0], "misfit_sd": details["misfit_sd"], "prior": details["prior"],
        "warnings": details["warnings"],
        "held_residual": float(held.relative_residual(found.image.values[None])),
        **{k: told[k] for k in ("covered", "ratio", "ratio_error", "chi2", "noise_share", "data", "places")},
        "seconds": time.process_time() - started,
    }  # fmt: skip
    return row, found


def one(name: str, data: Path, samples: int) -> tuple[Case, list[Any]]:
    """All of one case: rows, and panels of a picture."""
    case = CASES[name](data)
    options = ReconstructOptions(**case["options"])
    rows, images, deviation = classical(case, options)
    refused = refusal({**case, "sigma": deviation})
    print(f"{name}, with the shipped model: {refused}", flush=True)
    own = case["options"].get("sigma")
    stated: list[float | str | None] = {"kspace": [own], "tooth": [None, deviation]}.get(name, [deviation])
    panels = []
    for sigma in stated:
        try:
            row, found = posterior(case, sigma, samples)
        except InputError as error:
            print(f"{name}: {error}", flush=True)
            rows.append({"method": "posterior", "sigma": sigma, "refused": str(error)})
            continue
        print(f"{name}: {row['said']}\n{found.details['held_out']['said']}", flush=True)
        mean, sd = (x.values[0].abs().numpy() for x in (found.image, found.sd))
        if "truth" in case:
            scored = {"posterior": mean, **{k: v.numpy() for k, v in images.items()}}
            scores = {k: score(v, case["truth"]) for k, v in scored.items()}
            row["score"] = scores["posterior"]
            for r in rows:
                r.setdefault("score", scores.get(r["method"]))
        rows.append(row)
    best = images["fista"].abs().numpy()
    if all("refused" in row for row in rows if row["method"] == "posterior"):
        return {"refused": refused, "rows": rows}, [(f"{name}: TV", best, case.get("window") or (0, best.max()))]
    window = case.get("window") or (0, float(np.percentile(mean, 99.5)))
    panels = [(f"{name}: TV", best, window), ("mean of the samples", mean, window),
              ("one sample", found.samples[0].values[0].abs().numpy(), window),
              ("deviation", sd, (0, float(np.percentile(sd, 99.5))))]  # fmt: skip
    return {"refused": refused, "rows": rows}, panels


def score(image: np.ndarray, truth: np.ndarray) -> float:
    """Matthews correlation of the image above Otsu's threshold, on the pixels of the segmentation."""
    resized = Picture.fromarray(image.astype(np.float32)).resize(truth.shape[::-1], Picture.Resampling.BILINEAR)
    fine = np.asarray(resized)
    return matthews(fine > float(otsu(torch.from_numpy(fine))), truth)


NAMES = {"cg_sense": "`cg_sense`, 15 rounds", "fista": "TV (`fista`)", "posterior": "posterior, Gaussian prior"}


def shown(name: str, case: Case) -> str:
    """The table of one case."""
    cells = []
    scored = any(row.get("score") is not None for row in case["rows"])
    for row in case["rows"]:
        method, judged = NAMES.get(row["method"], f"`{row['method']}`"), ["-", "-", "-"]
        if row["method"] == "posterior" and name == "tooth":
            method += ", noise as TV leaves it" if isinstance(row["sigma"], float) else ", noise of the counts"
        if "refused" in row:
            cells.append([method, "refused", *["-"] * (5 + scored)])
            continue
        if row["method"] == "posterior":
            ratio = f"{row['ratio']:.2f} ± {row['ratio_error']:.2f}"
            judged = [f"{100 * row['covered']:.1f} %", ratio, f"{row['misfit']:.2f} ± {row['misfit_sd']:.2f}"]
        chi2 = f"{row['chi2']:.2f}" if "chi2" in row else "-"
        said = [f"{100 * row['held_residual']:.2f} %", chi2, *judged, *([f"{row['score']:.2f}"] if scored else [])]
        cells.append([method, *said, f"{row['seconds']:.0f}"])
    head = ["method", "left out, residual", "chi² / m of the mean", "in 90 % intervals", "error² / predicted",
            "chi² of samples", *(["score"] if scored else []), "CPU s"]  # fmt: skip
    return table(head, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("docs/images"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="*", choices=sorted(CASES), default=list(CASES))
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--docs", action="store_true", help="write the tables of what was found")
    asked = parser.parse_args()
    if asked.docs:
        for name, case in json.loads(asked.json.read_text())["cases"].items():
            replace_block(DOCS, f"measured-{name}", shown(name, case))
        return
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    record = json.loads(asked.json.read_text()) if asked.json.exists() else {"cases": {}}
    for name in asked.only:
        record["cases"][name], panels = one(name, asked.data, asked.samples)
        record["command"] = "python benchmarks/inverse_measured.py docs/images"
        asked.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        picture(asked.out / f"posterior-{name}.png", panels)
    for name in asked.only:
        print(f"{name}\n{shown(name, record['cases'][name])}")


if __name__ == "__main__":
    main()
