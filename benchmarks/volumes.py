"""Volumes."""
import json
import sys
from pathlib import Path

import numpy as np

D = Path("/work/shared/data/petct_sts")
def prepare(out: Path) -> None:
    split = json.loads((D / "split.json").read_text())
    for side, folder in (("train", "volumes"), ("validation", "unseen")):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for name in split[side]:
            with np.load(D / f"{name}.npz") as z:
                meta = json.loads(str(z["meta_json"]))
                np.savez_compressed(out / folder / f"{name}.npz", hu=z["ct_hu"], spacing=np.array(meta["ct_spacing_mm"]), unit=np.array("HU"))
                print(name, side, z["ct_hu"].shape, meta["ct_spacing_mm"])
prepare(Path(sys.argv[1]))
