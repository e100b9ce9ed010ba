"""Models of cascades on disk, in the files of every model; their networks are those of the levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError, Recipe, build
from retrodict.bases import Wavelet
from retrodict.bases.spectrum import BandSpectrum, Spectrum
from retrodict.denoisers.cascade import CascadeDenoiser
from retrodict.denoisers.cascade_net import Factors, NetModel, RegressionModel
from retrodict.denoisers.denoiser import Denoiser
from retrodict.models.model import MOST_PARAMETERS, ModelSpec, load_model, model_files, open_model, read_spec
from retrodict.models.tensors import as_ever, load_weights, read_tensors
from retrodict.nets import NETS
from retrodict.nets.cascade import CascadeNet
from retrodict.processes.recipes import process_from_recipe

__all__ = ["Generator", "build_cascade", "is_cascade", "open_generator"]


@dataclass(frozen=True)
class Generator:
    """A denoiser of an unconditional process with its record: what `generate` draws from."""

    spec: ModelSpec
    denoiser: Denoiser
    source: str


def is_cascade(network: Mapping[str, Any]) -> bool:
    """Whether the record of a network is that of a cascade."""
    return network.get("name") == "cascade"


def build_cascade(spec: ModelSpec, where: str = "model") -> CascadeDenoiser:
    """A cascade with fresh weights on the training grid.

    Raises `InputError`, by name, where the levels of the networks are not those of the basis of the process.
    """
    try:
        process = process_from_recipe(spec.process, spec.size, spec.spacing, f"{where}: process")
    except InputError as error:
        if error.where.startswith(where):
            raise
        raise InputError(f"{where}: process: {error.where}", error.found, error.expected, error.hint) from error
    own, net = CascadeNet.options_of(spec.network.get("options", {}), where)
    if not isinstance(process.basis, Wavelet):
        raise InputError(f"{where}: process.basis", type(process.basis).__name__, "wavelet: a cascade has levels")
    CascadeNet.crop_of(spec.network.get("options", {}), where)
    levels = own.setdefault("levels", process.basis.depth)
    if levels != process.basis.depth:
        wanted = f"{process.basis.depth}, the levels of process.basis"
        raise InputError(f"{where}: network.options.levels", levels, wanted)
    recipe, shape = Recipe.from_json(net, f"{where}: network.options.net"), {"ndim": process.ndim}
    options = {**own, **shape, "channels": len(spec.channels)}

    def made() -> CascadeNet:
        return CascadeNet(lambda **inner: build(NETS, recipe, f"{where}: network.options.net", **inner), **options)

    with torch.device("meta"):  # shapes only: an absurd width costs nothing
        count = sum(p.numel() for p in made().parameters())
    if count > MOST_PARAMETERS:
        raise InputError(f"{where}: network", f"{count:.3g} parameters", f"at most {MOST_PARAMETERS:.3g}")
    with as_ever():
        nets = made()
    spectrum = Spectrum.from_json(spec.spectrum, f"{where}: spectrum")
    if not isinstance(spectrum, BandSpectrum):
        raise InputError(f"{where}: spectrum", "a radial spectrum", "the statistics of the bands of a wavelet basis")
    factors = None
    if spec.spread_scale is not None:
        factors = Factors.from_json(spec.spread_scale, levels + 1, f"{where}: spread_scale")
    details = CascadeNet.details_of(spec.network.get("options", {}), where)
    if details == "posterior":
        return CascadeDenoiser(process, NetModel(nets, factors), spectrum)
    return CascadeDenoiser(process, RegressionModel(nets, factors, silent=details == "none"), spectrum)


def open_generator(model: str | Path) -> Generator:
    """A model of an unconditional process, a cascade or not, from a path (or the name of a shipped one).

    Raises `InputError` for a model that restores, and for what `load_model` refuses.
    """
    files = model_files(model)
    if not files[1].exists():
        found = open_model(model)  # a shipped name, or says what is missing
        found_spec, denoiser, source = found.spec, found.denoiser, found.source
    else:
        found_spec, digest = read_spec(files[1])
        source = str(files[1].with_name(files[1].name.removesuffix(".json")))
        denoiser = (
            _with_weights(found_spec, files, digest) if is_cascade(found_spec.network) else load_model(model).denoiser
        )
    if denoiser.process.pairing.restores:
        kind = denoiser.process.pairing.kind
        raise InputError("model", f"a model that restores ({kind})", "an unconditional one", "Use retrodict restore.")
    return Generator(found_spec, denoiser, source)


def _with_weights(spec: ModelSpec, files: tuple[Path, Path], digest: str | None) -> CascadeDenoiser:
    denoiser = build_cascade(spec, str(files[1]))
    nets = _nets(denoiser)
    tensors: dict[str, Tensor] = read_tensors(files[0], nets.state_dict(), digest)
    load_weights(nets, tensors, files[0])
    nets.eval().requires_grad_(False)
    return denoiser


def _nets(denoiser: CascadeDenoiser) -> CascadeNet:
    assert isinstance(denoiser.model, NetModel)
    return denoiser.model.net
