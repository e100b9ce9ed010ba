"""Train a small model on synthetic discs for half a minute and restore with it."""

import tempfile
from pathlib import Path

import numpy as np

import retrodict
from retrodict.models.instrument import measure

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
y, x = np.mgrid[:64, :64]
for patient in "abc":
    stack = np.zeros((12, 64, 64), np.float32)
    for image in stack:
        for _ in range(8):
            cy, cx, r = rng.uniform((0, 0, 4), (64, 64, 14))
            image[(y - cy) ** 2 + (x - cx) ** 2 < r * r] += rng.uniform(-200, 200)
    np.savez(folder / f"{patient}.npz", image=stack, spacing=[1.0, 1.0, 1.0], unit="HU")

(folder / "tiny.yaml").write_text("""
name: tiny
spacing: [1.0, 1.0]
intensity: {unit: HU, scale: 200.0, offset: 0.0}
process: {name: fourier}
network: {name: unet, options: {width: 16, multipliers: [1, 2], padding: circular}}
bands: 3
data:
  groups: [{name: a, paths: [a.npz]}, {name: b, paths: [b.npz]}, {name: c, paths: [c.npz]}]
  validation: [c]
  patch: [32, 32]
training: {steps: 250, batch: 8, warmup: 20, ema: 0.98, checkpoint_every: 250, validate_every: 125}
""")
config = retrodict.load_config(folder / "tiny.yaml")
plan = retrodict.prepare_fit(config, folder / "run", folder)
print(f"{plan.parameters} parameters, about {plan.seconds:.0f} s")
weights = retrodict.fit(plan, folder / "run", tensorboard=False)

model = retrodict.load_model(weights)
print("calibration factors of the finest band:", [round(row[0], 2) for row in model.spec.spread_scale["factor"]])
scan = retrodict.Image(retrodict.read(folder / "c.npz").values[:, 0], "HU", (1.0, 1.0), "npz", ())
measured = measure(scan, model)
result = retrodict.restore(measured, model=model, samples=4)
print("spread of the ensemble:", round(float(result.sd.values.mean()), 1), "HU")
