"""Operators of other packages here, and ours there; none of the packages is needed for anything else."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict.physics.geometry import FanBeam, ParallelBeam
from retrodict.physics.operator import Operator, Space, check_adjoint
from retrodict.physics.radon import integrated

__all__ = ["AstraRadon", "MatrixFree", "from_deepinv", "from_leap", "from_mri_nufft", "from_tomosipo", "to_deepinv"]


def _package(name: str, install: str) -> Any:
    if importlib.util.find_spec(name) is None:
        raise InputError(name, "a package that is not installed", f"pip install {install}")
    return importlib.import_module(name)


class MatrixFree(Operator):
    """An operator given by two functions of batches, forward `(B, *domain)` to `(B, *range)` and its adjoint.

    The adjoint is checked as it is made (random and structured vectors, 1e-12 in float64, or 1e-5 for functions of
    float32 alone, `dtype`), so that a wrong one is refused before a long run; `check=False` leaves that out.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        adjoint: Callable[[Tensor], Tensor],
        domain: Space,
        range: Space,
        *,
        name: str = "MatrixFree",
        dtype: torch.dtype = torch.float64,
        check: bool = True,
    ) -> None:
        self._act, self._back, self._name = forward, adjoint, name
        self.domain, self.range = domain, range
        if check:
            self._probe(dtype)
            check_adjoint(self, dtype=dtype)

    def _probe(self, dtype: torch.dtype) -> None:
        """Refuse functions of other shapes or kinds of number than the spaces say."""
        x = self.domain.white(0, "probe", dtype=dtype)
        y = self.range.check(self._act(x), f"{self.name}: what forward returns")
        self.domain.check(self._back(torch.zeros_like(y)), f"{self.name}: what adjoint returns")

    @property
    def name(self) -> str:
        """As it was given."""
        return self._name

    def _forward(self, x: Tensor) -> Tensor:
        return self._act(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._back(y)


# ---- deepinv ---------------------------------------------------------------------------------------------------------


def from_deepinv(physics: Any, domain: Space, *, dtype: torch.dtype = torch.float32) -> MatrixFree:
    """A linear physics of deepinv (`A` and `A_adjoint`) as an operator; `domain` says shape, unit and kind of number.

    The range follows from one call.  The adjoint is checked in `dtype`: `InputError` with the figure where it is none.
    """
    for name in ("A", "A_adjoint"):
        if not callable(getattr(physics, name, None)):
            raise InputError("physics", f"{type(physics).__name__} without {name}", "a linear physics of deepinv")
    with torch.no_grad():
        y = physics.A(domain.white(0, "probe", dtype=dtype))
    if not isinstance(y, Tensor):
        raise InputError("physics", f"measurements that are a {type(y).__name__}", "one tensor")
    into = Space(tuple(y.shape[1:]), complex=y.is_complex())
    return MatrixFree(physics.A, physics.A_adjoint, domain, into, name=type(physics).__name__, dtype=dtype)


def to_deepinv(operator: Operator) -> Any:
    """The linear part of an operator as a `deepinv.physics.LinearPhysics`, for its solvers and its tests."""
    physics = _package("deepinv", "deepinv").physics
    part = operator.part

    def act(x: Tensor, **_: Any) -> Tensor:
        return part.forward(x)

    def back(y: Tensor, **_: Any) -> Tensor:
        return part.adjoint(y)

    return physics.LinearPhysics(A=act, A_adjoint=back, img_size=part.domain.shape)


# ---- operators of one item ------------------------------------------------------------------------------------------


def _each(call: Callable[[Tensor], Any], dtype: torch.dtype, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """A function of one item in `dtype` on the CPU, as one of batches in the precision and on the device of these."""

    def run(x: Tensor) -> Tensor:
        items = x.detach().to("cpu", dtype)
        found = [torch.as_tensor(call(item.contiguous()), device="cpu").reshape(shape) for item in items]
        return torch.stack(found).to(x)

    return run


def _has(given: Any, where: str, names: Sequence[str], expected: str) -> None:
    for name in names:
        if getattr(given, name, None) is None:
            raise InputError(where, f"{type(given).__name__} without {name}", expected)


def from_mri_nufft(nufft: Any, *, unit: str = "1", spacing: Sequence[float] = ()) -> MatrixFree:
    """A Fourier operator of mri-nufft (Comby et al., 2025) as an operator: images `(1, *N)` to samples `(coils, m)`.

    `op` and `adj_op` as they are: with the sensitivities that it was made with, and in its own scale, which with the
    finufft backend is 2^(-ndim/2) of that of `RadialMRI`.  `(coils, *N)` are its images where it has no sensitivities
    and several coils.  On the CPU in the precision that it has; no gradients.

    Raises `InputError` for density compensation, with which `adj_op` is no adjoint (the figure says by how much).
    """
    _has(nufft, "nufft", ("op", "adj_op", "shape", "n_samples", "cpx_dtype"), "a Fourier operator of mri-nufft")
    if getattr(nufft, "uses_density", False):
        hint = "Make it with density=False; the weights belong to a reconstruction."
        raise InputError("nufft", "an operator with density compensation", "one whose adj_op is its adjoint", hint)
    coils, size = int(getattr(nufft, "n_coils", 1)), tuple(int(n) for n in nufft.shape)
    images = 1 if getattr(nufft, "uses_sense", False) else coils
    domain = Space((images, *size), unit, True, tuple(spacing))
    into = Space((coils, int(nufft.n_samples)), unit, True)
    dtype = torch.complex128 if str(nufft.cpx_dtype) == "complex128" else torch.complex64

    def act(x: Tensor) -> Any:
        return nufft.op(x.numpy().reshape(size if images == 1 else (images, *size)))

    def back(y: Tensor) -> Any:
        return nufft.adj_op(y.numpy().reshape((coils, -1) if coils > 1 else (-1,)))

    calls = (_each(act, dtype, into.shape), _each(back, dtype, domain.shape))
    # its transforms are to 1e-6 as they come, and an adjoint is no better than they are
    return MatrixFree(*calls, domain, into, name=type(nufft).__name__, dtype=torch.float32)


def from_tomosipo(
    projector: Any, *, spacing: Sequence[float] = (), unit: str = "1/mm", check: bool = True
) -> MatrixFree:
    """A `tomosipo.operator` (Hendriksen et al., Optics Express 29, 2021) as an operator of volumes `(1, nz, ny, nx)`.

    Projections are `(1, rows, views, columns)`, as tomosipo has them.  Its geometry is its own; lengths in mm make
    integrals of `unit` mm.  float32; no gradients.  `Projection` is ours and needs no package.  A back-projection that
    is only near the transpose, as some on CUDA are, is refused with the figure; `check=False` takes it.
    """
    _has(projector, "projector", ("domain_shape", "range_shape", "T"), "an operator of tomosipo")
    domain = Space((1, *map(int, projector.domain_shape)), unit, spacing=tuple(spacing))
    into = Space((1, *map(int, projector.range_shape)), integrated(unit))

    def act(x: Tensor) -> Any:
        return projector(x[0])

    def back(y: Tensor) -> Any:
        return projector.T(y[0])

    calls = (_each(act, torch.float32, into.shape), _each(back, torch.float32, domain.shape))
    return MatrixFree(*calls, domain, into, name="tomosipo", dtype=torch.float32, check=check)


def from_leap(models: Any, *, spacing: Sequence[float] = (), unit: str = "1/mm", check: bool = True) -> MatrixFree:
    """LEAP's `tomographicModels` with geometry and volume set (Kim and Champley, 2023) as an operator.

    Volumes `(1, nz, ny, nx)` to projections `(1, views, rows, columns)`; `project` and `backproject` on arrays of the
    CPU, float32; no gradients.  Its geometry is its own.  `Projection` is ours and needs no package.  A back-projection
    that is only near the transpose is refused with the figure; `check=False` takes it.
    """
    names = ("project", "backproject", "get_volume_dim", "get_projection_dim")
    _has(models, "models", names, "tomographicModels of LEAP")
    volume, data = (tuple(int(n) for n in call()) for call in (models.get_volume_dim, models.get_projection_dim))
    if min(volume + data) < 1:
        found = f"volumes {volume} and projections {data}"
        raise InputError("models", found, "a geometry (set_parallelbeam, set_conebeam) and a volume (set_volume)")
    domain, into = Space((1, *volume), unit, spacing=tuple(spacing)), Space((1, *data), integrated(unit))

    def act(x: Tensor) -> Any:
        out = torch.zeros(into.shape[1:], dtype=torch.float32, device="cpu").numpy()
        models.project(out, x[0].numpy())
        return out

    def back(y: Tensor) -> Any:
        out = torch.zeros(domain.shape[1:], dtype=torch.float32, device="cpu").numpy()
        models.backproject(y[0].numpy(), out)
        return out

    calls = (_each(act, torch.float32, into.shape), _each(back, torch.float32, domain.shape))
    return MatrixFree(*calls, domain, into, name="LEAP", dtype=torch.float32, check=check)


# ---- astra -----------------------------------------------------------------------------------------------------------


class AstraRadon(Operator):
    """The integrals of `Radon` by the projectors of the ASTRA toolbox on the CPU: Joseph's for parallel beams, the
    length of intersection for flat fans (van Aarle et al., Optics Express 24, 2016).

    Square pixels, the axis of rotation in the middle, no detector offset; float32 inside, whatever comes.  Its adjoint
    is the transpose to float32.  `Radon` needs no package and is faster.
    """

    def __init__(
        self,
        size: Sequence[int],
        geometry: ParallelBeam | FanBeam,
        *,
        spacing: Sequence[float] = (1.0, 1.0),
        channels: int = 1,
        unit: str = "1/mm",
    ) -> None:
        if len(size) != 2 or len(spacing) != 2 or not math.isclose(*spacing):
            raise InputError("AstraRadon spacing", tuple(spacing), "two equal numbers")
        if geometry.offset or any(geometry.center) or (isinstance(geometry, FanBeam) and geometry.curved):
            found = "an offset, a center, or a curved detector"
            raise InputError("AstraRadon geometry", found, "none of these", "Radon has them.")
        package = _package("astra", "astra-toolbox")
        d = float(spacing[0])
        angles = torch.tensor(geometry.angles, dtype=torch.float64, device="cpu").numpy()
        volume = package.create_vol_geom(size[0], size[1])
        if isinstance(geometry, ParallelBeam):
            kind, shape = "linear", ("parallel", geometry.pitch / d, geometry.bins, angles)
        else:
            behind = (geometry.detector - geometry.source) / d
            geometry.check_source(0.5 * d * math.hypot(*size))
            # its source stands at (sin, -cos), ours at (-sin, cos): half a turn, which turns the detector round as well
            kind = "line_fanflat"
            shape = ("fanflat", geometry.pitch / d, geometry.bins, angles + math.pi, geometry.source / d, behind)
        self._reversed = isinstance(geometry, FanBeam)
        self._call = package.OpTomo(package.create_projector(kind, package.create_proj_geom(*shape), volume))
        self._scale = d
        self.domain = Space((channels, *size), unit, spacing=tuple(spacing))
        self.range = Space((channels, *geometry.shape), integrated(unit), spacing=(geometry.pitch,))

    @property
    def about(self) -> Mapping[str, Any]:
        """Who computes."""
        return {"package": "astra"}

    def _each(self, call: Callable[[Any], Any], x: Tensor, shape: tuple[int, ...]) -> Tensor:
        images = x.detach().to("cpu", torch.float32).flatten(0, 1)
        found = [torch.from_numpy(call(item.contiguous().numpy())) * self._scale for item in images]
        return torch.stack(found).reshape(len(x), *shape).to(x)

    def _forward(self, x: Tensor) -> Tensor:
        p = self._each(self._call.FP, x, self.range.shape)
        return p.flip(-1) if self._reversed else p

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._each(self._call.BP, y.flip(-1) if self._reversed else y, self.domain.shape)
