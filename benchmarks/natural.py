"""Photographs as gray values with a table: what `configs/natural.yaml` trains on.

    python benchmarks/natural.py OUT                  (gray images and OUT/index.csv; two of seven are held out)
    retrodict fit configs/natural.yaml --set data.root=OUT -o runs/natural

The photographs and textures of scikit-image (`natural_skimage` of the public data); colors are weighed as in Rec. 601.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from patient_slices import DATA
from retrodict import index_folder

SOURCE = "natural_skimage"


def prepare(out: Path) -> Path:
    """Write gray images of 8 bits and their table; the path of the table."""
    out.mkdir(parents=True, exist_ok=True)
    found = sorted((DATA / SOURCE).glob("*.png"))
    if not found:
        raise SystemExit("the photographs are not there: see docs/figures.md")
    for path in found:
        with Image.open(path) as image:
            gray = np.asarray(image.convert("L"))
        Image.fromarray(gray).save(out / path.name)
    return index_folder(out, spacing=(1.0, 1.0), unit="1", validation=0.3).save(force=True)


def main() -> None:
    """Prepare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    print(prepare(parser.parse_args().out))


if __name__ == "__main__":
    main()
