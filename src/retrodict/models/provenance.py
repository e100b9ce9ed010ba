"""Whether a model has seen an image: what is judged on it, or calibrated with it, would be too good."""

from __future__ import annotations

from typing import Literal

from retrodict.data.collection import slice_digests
from retrodict.data.image import Image
from retrodict.models.model import ModelSpec

__all__ = ["seen"]


def seen(spec: ModelSpec, image: Image, side: Literal["training", "validation"] = "training") -> list[int] | None:
    """The slices of an image, from 0, that the model was trained on (or that were held out: `side` "validation").

    By the digests of pixels in the card of the model, fields `training_images` and `validation_images`: the first hex
    digits of `data.collection.slice_digest`, so that the same pixels are known in any format.  Other values (another
    rescaling, resampled, anonymized by blackening) are other pixels.  None for a model whose card has no such field.
    """
    known = spec.card.get(f"{side}_images")
    if not isinstance(known, list) or not all(isinstance(digest, str) and digest for digest in known):
        return None
    lengths, listed = {len(digest) for digest in known}, set(known)
    return [k for k, digest in enumerate(slice_digests(image)) if any(digest[:n] in listed for n in lengths)]
