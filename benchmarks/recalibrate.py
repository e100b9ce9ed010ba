"""Calibrate the spread of a trained model of every instrument anew; its weights stay as they are.

    python benchmarks/recalibrate.py MODEL OUT --config configs/any-scanner.yaml [--set data.root=../shared/data]
    python benchmarks/recalibrate.py MODEL OUT --config configs/any-scanner.yaml --intensity    (the last factors alone)

What `retrodict fit` does after the last step, with the validation patients of the configuration: factors by level and
frequency, in use and by intensity, and the law of the misfit of patients not trained on.  `--intensity` keeps the
factors that the model has and finds those by what a pixel shows, the quick part.  Always in float32, whatever the
machine trains in: the factors have to hold where the model is used.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch

from retrodict.models.model import load_model, save_model
from retrodict.tasks.fit import calibrated, prepare_fit
from retrodict.tasks.fit_config import load_config
from retrodict.tasks.held_out import held_out_over_law
from retrodict.tasks.in_use import by_intensity


def main() -> None:
    """Write OUT.safetensors and OUT.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="path of a model without its ending")
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="as of retrodict fit")
    parser.add_argument("--intensity", action="store_true", help="only the factors by what a pixel shows")
    a = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(a.config, [*a.set, "training.precision=float32", "training.device=cpu"])
    model = load_model(a.model, "float32")
    with tempfile.TemporaryDirectory() as folder:
        plan = prepare_fit(config, Path(folder), a.config.parent)
        plan = replace(plan, spec=replace(model.spec, spread_scale=None, held_out=None))
        weights = model.denoiser.net.state_dict()
        if not a.intensity:
            save_model(calibrated(plan, weights), weights, a.out)
            return
        pairs, law, seed = {}, plan.config.clocks(), plan.config.training.seed
        for item in plan.validation.slices:  # type: ignore[union-attr]
            own = model.intensity.encode(item.image.values), math.sqrt(math.prod(item.spacing))
            pairs.setdefault(item.patient, []).append(own)
        found = by_intensity(model.denoiser, law, pairs, seed)
        scale = replace(model.denoiser.spread_scale, intensity=found)  # type: ignore[type-var]
        record = held_out_over_law(replace(model.denoiser, spread_scale=scale), law, pairs, seed)
    known = model.spec.held_out if record is None else record.to_json()
    save_model(replace(model.spec, spread_scale=asdict(scale), held_out=known), weights, a.out)
    print(f"{len(pairs)} patients: factors on the variance by what a pixel shows, in model units")
    for at, factor in zip(found.intensity, found.factor, strict=True):  # type: ignore[union-attr]
        print(f"{at:10.3f}  {model.intensity.decode(torch.tensor(at)):10.1f} {model.intensity.unit}  {factor:.3f}")


if __name__ == "__main__":
    main()
