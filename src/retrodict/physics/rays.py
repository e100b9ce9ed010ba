"""Line integrals of images as sparse matrices: Joseph's weights, symmetric rays shared, exact transposes."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Joseph",
    "RayMatrix",
    "Rows",
    "Sparse",
    "Weights",
    "back_projection",
    "compressed",
    "integrals",
    "transformed",
]

BUILD = 1 << 21
"""Weights that are computed at a time."""
BLOCK = 1 << 24
"""Weights of one matrix; a larger one is cut, so that turning it round needs little memory."""
COLUMNS = 4
"""Columns that a sparse product takes at a time; more of them run slower for each."""


# ---- sparse products -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sparse:
    """A matrix in compressed rows: `start` (m + 1,), `column` and `value` (nnz,)."""

    start: Tensor
    column: Tensor
    value: Tensor
    width: int

    def __matmul__(self, x: Tensor) -> Tensor:
        """`(n, R)` to `(m, R)`, a few columns at a time."""
        return torch.cat([self._product(part.contiguous()) for part in x.split(COLUMNS, 1)], 1)

    def _product(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and not torch.backends.mkl.is_available():
            bag = torch.nn.functional.embedding_bag
            return bag(self.column, x, self.start[:-1], mode="sum", per_sample_weights=self.value)
        return self._matrix @ x

    @cached_property
    def _matrix(self) -> Tensor:
        with warnings.catch_warnings():  # the format is called a beta state once a process
            warnings.simplefilter("ignore", UserWarning)
            shape = (len(self.start) - 1, self.width)
            device = self.value.device
            return torch.sparse_csr_tensor(
                self.start, self.column, self.value, shape, device=device, check_invariants=False
            )

    def transpose(self) -> Sparse:
        """The same weights in compressed columns, that is, in compressed rows of the transpose."""
        count = self.start.diff()
        row = torch.arange(len(count), dtype=torch.int32, device=count.device).repeat_interleave(count)
        order = torch.sort(self.column, stable=True)[1]
        sizes = torch.bincount(self.column, minlength=self.width)
        start = torch.zeros(self.width + 1, dtype=torch.int32, device=count.device)
        start[1:] = sizes.cumsum(0)
        return Sparse(start, row.index_select(0, order), self.value.index_select(0, order), len(count))

    def add_transposed(self, total: Tensor, p: Tensor) -> None:
        """Add A^T p to `total` `(n, R)` in place, p `(m, R)`: without the transpose, and slower."""
        row = torch.arange(len(p), device=p.device).repeat_interleave(self.start.diff())
        total.index_add_(0, self.column, self.value[:, None] * p[row])

    def to(self, like: Tensor) -> Sparse:
        """In the precision and on the device of a real tensor."""
        indices = (self.start.to(like.device), self.column.to(like.device))
        return Sparse(*indices, self.value.to(like), self.width)


# ---- Joseph's weights ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Rays on a grid: at step i < `steps` a ray is at slope i + first along the other axis, of `across` pixels.

    Pixel = i stride + k other; `length` mm a step.  All `(n,)`.
    """

    slope: Tensor
    first: Tensor
    length: Tensor
    steps: Tensor
    across: Tensor
    stride: Tensor
    other: Tensor

    def part(self, start: int, stop: int) -> Rows:
        """Some of the rays."""
        return Rows(*(getattr(self, name)[start:stop] for name in self.__dataclass_fields__))


class Weights(ABC):
    """What makes the weights of rays through a grid of `size`: at most `taps` at each step along its longest axis."""

    taps: int

    def __init__(self, size: Sequence[int], spacing: Sequence[float]) -> None:
        self.size, self.spacing = tuple(size), tuple(spacing)
        self.pixels = math.prod(size)

    @abstractmethod
    def some(self, rows: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Of a few rays: how many weights each has, their pixels (int32) and values (float64), ray by ray."""

    def weights(self, rows: Any, count: int) -> Sparse:
        """The matrix of `count` rays, float64; zeros are left out."""
        step = max(1, BUILD // (self.taps * max(self.size)))
        parts = [self.some(rows.part(i, i + step)) for i in range(0, count, step)]
        counts = torch.cat([p[0] for p in parts])
        start = torch.zeros(len(counts) + 1, dtype=torch.int32, device="cpu")
        start[1:] = counts.cumsum(0)
        return Sparse(start, torch.cat([p[1] for p in parts]), torch.cat([p[2] for p in parts]), self.pixels)

    def blocks(self, count: int) -> Iterator[tuple[int, int]]:
        """Ranges of rays of at most `BLOCK` weights each."""
        step = max(1, BLOCK // (self.taps * max(self.size)))
        return ((i, min(i + step, count)) for i in range(0, count, step))


class Joseph(Weights):
    """Weights of lines nx x + ny y = s on an image `(ny, nx)` of pixels `spacing` (dy, dx) mm, middle at (0, 0).

    The axis along which a ray is steeper is stepped pixel by pixel and the image interpolated linearly along the other
    one; the weight is the length of a step (Joseph, IEEE Trans. Medical Imaging 1, 1982).  Outside the image is 0.
    """

    taps = 2

    def rows(self, nx: Tensor, ny: Tensor, s: Tensor) -> Rows:
        """Where each line is at every step of its axis."""
        (height, width), (dy, dx) = self.size, self.spacing
        upright = nx.abs() / dy >= ny.abs() / dx  # steps over image rows
        a, b = torch.where(upright, nx, 1.0), torch.where(upright, 1.0, ny)
        # x = (s - ny y) / nx with y = -(i - cy) dy, and y = (s - nx x) / ny with x = (i - cx) dx
        cy, cx = (height - 1) / 2, (width - 1) / 2
        slope = torch.where(upright, ny * dy / (a * dx), nx * dx / (b * dy))
        middle = torch.where(upright, s / (a * dx) + cx, -s / (b * dy) + cy)
        first = middle - slope * torch.where(upright, cy, cx)
        length = torch.where(upright, dy / a.abs(), dx / b.abs())

        def pick(yes: int, no: int) -> Tensor:
            return torch.where(upright, yes, no)

        return Rows(slope, first, length, pick(height, width), pick(width, height), pick(width, 1), pick(1, width))

    def some(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of a few rays."""
        return self._weights(rows, max(self.size))

    @staticmethod
    def _weights(rows: Rows, most: int) -> tuple[Tensor, Tensor, Tensor]:
        at = torch.arange(most, dtype=torch.float64, device="cpu")
        place = torch.addcmul(rows.first[:, None], rows.slope[:, None], at)
        low = place.floor()
        high = (place - low).mul_(rows.length[:, None])
        weight = torch.stack([rows.length[:, None] - high, high], -1)
        step = torch.arange(most, dtype=torch.int32, device="cpu")
        k = low.int()
        # the pixel below has index k and the one above k + 1; each may lie outside
        known = step < rows.steps[:, None]
        across = rows.across[:, None]
        inside = torch.stack([known & (k >= 0) & (k < across), known & (k >= -1) & (k < across - 1)], -1)
        inside &= weight > 0
        below = step * rows.stride[:, None].int() + k * rows.other[:, None].int()
        pixel = torch.stack([below, below + rows.other[:, None].int()], -1)
        return compressed(inside, pixel, weight)


def compressed(inside: Tensor, pixel: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is inside, ray by ray: counts `(n,)`, pixels and weights of tables `(n, steps, taps)`."""
    kept = inside.reshape(-1).nonzero().squeeze(1)
    counts = inside.flatten(1).sum(1)
    return counts, pixel.reshape(-1).index_select(0, kept), weight.reshape(-1).index_select(0, kept)


# ---- symmetry --------------------------------------------------------------------------------------------------------


def transformed(x: Tensor, kind: int, *, back: bool = False) -> Tensor:
    """An image `(..., ny, nx)` mirrored in x (bit 1), in y (bit 2), then its axes x and y exchanged (bit 4)."""
    mirrors = [axis for bit, axis in ((1, -1), (2, -2)) if kind & bit]
    if back:
        x = x.transpose(-1, -2).flip(-1, -2) if kind & 4 else x
        return x.flip(mirrors) if mirrors else x
    x = x.flip(mirrors) if mirrors else x
    return x.transpose(-1, -2).flip(-1, -2) if kind & 4 else x


def _canonical(nx: Tensor, ny: Tensor, s: Tensor, square: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The line that all mirror images of a line share, and which mirror image it is (as `transformed` counts)."""
    sign = torch.where(s < 0, -1.0, 1.0)
    nx, ny, s = sign * nx, sign * ny, sign * s
    kind = (nx < 0).long() + 2 * (ny < 0).long()
    nx, ny = nx.abs(), ny.abs()
    if square:
        swap = nx < ny
        kind = kind + 4 * swap.long()
        nx, ny = torch.where(swap, ny, nx), torch.where(swap, nx, ny)
    return nx, ny, s, kind


@dataclass(frozen=True)
class _Classes:
    """The different lines, and the mirror images (as `transformed` counts) through which rays follow them."""

    lines: tuple[Tensor, Tensor, Tensor]
    kinds: tuple[int, ...]
    slot: Tensor
    """Index of its line times len(kinds) plus that of its mirror image, of every ray, `(n,)`."""


def _classes(nx: Tensor, ny: Tensor, s: Tensor, square: bool) -> _Classes:
    """Rays grouped by the mirror images of the image; lines that agree to 1e-9 are one."""
    cx, cy, cs, kind = _canonical(nx, ny, s, square)
    scale = float(cs.max().clamp_min(1e-300))
    name = (torch.atan2(cy, cx) * 5e8).round().long() * (1 << 31) + (cs / scale * 1e9).round().long()
    unique, line = torch.unique(name, return_inverse=True)
    first = torch.bincount(line).cumsum(0).roll(1)
    first[0] = 0
    own = torch.sort(line, stable=True)[1][first]  # the first ray of every line
    kinds, column = torch.unique(kind, return_inverse=True)
    if len(name) < 0.5 * len(unique) * len(kinds):  # no symmetry to speak of
        plain = torch.arange(len(name), device="cpu")
        return _Classes((nx, ny, s), (0,), plain)
    return _Classes((cx[own], cy[own], cs[own]), tuple(kinds.tolist()), line * len(kinds) + column)


# ---- the projector ---------------------------------------------------------------------------------------------------


class RayMatrix:
    """Integrals along lines through an image, and the exact transpose.

    Rays that are mirror images of each other share their weights (`shared`): the matrix has one row for all of them,
    and the mirrored images are its columns, so that a full scan of a square image stores an eighth of its weights.
    Where symmetric rays are missing (a shifted detector, a short arc) every ray has its row.  Matrices are kept, for
    each precision and device, if they and their transposes fit into `memory` bytes; otherwise they are computed again,
    block by block, at every use.
    """

    def __init__(
        self,
        joseph: Weights,
        rows: Any,
        count: int,
        memory: float,
        kinds: tuple[int, ...] = (0,),
        slot: Tensor | None = None,
    ) -> None:
        self.joseph, self.kinds, self.memory = joseph, kinds, memory
        self._rows, self._count = rows, count
        self._slot = torch.arange(count, device="cpu") if slot is None else slot
        self._blocks = list(joseph.blocks(count))
        self._kept: dict[tuple[torch.dtype, torch.device, bool], list[Sparse]] = {}

    @classmethod
    def shared(cls, joseph: Joseph, lines: tuple[Tensor, Tensor, Tensor], memory: float) -> RayMatrix:
        """Of lines nx, ny, s of any shape in a plane, with what is symmetric stored once."""
        square = joseph.size[0] == joseph.size[1] and joseph.spacing[0] == joseph.spacing[1]
        nx, ny, s = (v.reshape(-1) for v in lines)
        classes = _classes(nx, ny, s, square)
        rows = joseph.rows(*classes.lines)
        return cls(joseph, rows, len(classes.lines[0]), memory, classes.kinds, classes.slot)

    @property
    def weights(self) -> int:
        """Upper bound of the number of weights that are stored or computed."""
        return self.joseph.taps * self._count * max(self.joseph.size)

    def kept(self, dtype: torch.dtype) -> bool:
        """Whether the matrices of this precision stay in memory."""
        return 2 * self.weights * (4 + torch.finfo(dtype).bits // 8) <= self.memory

    def _matrices(self, like: Tensor, turned: bool) -> Iterator[Sparse]:
        key = (like.dtype, like.device, turned)
        if key in self._kept:
            yield from self._kept[key]
            return
        made: list[Sparse] = []
        for start, stop in self._blocks:
            forward = self._kept.get((like.dtype, like.device, False))
            block = (
                forward[len(made)]
                if forward
                else self.joseph.weights(self._rows.part(start, stop), stop - start).to(like)
            )
            block = block.transpose() if turned else block
            if self.kept(like.dtype):
                made.append(block)
            yield block
        if made:
            self._kept[key] = made

    def forward(self, x: Tensor) -> Tensor:
        """Images `(n, ny, nx)` to integrals `(n, rays)`."""
        columns = [torch.stack([transformed(item, k).reshape(-1) for k in self.kinds], 1) for item in x]
        parts: list[list[Tensor]] = [[] for _ in columns]
        for block in self._matrices(x, False):
            for found, column in zip(parts, columns, strict=True):
                found.append(block @ column)
        slot = self._slot.to(x.device)
        return torch.stack([torch.cat(found).reshape(-1)[slot] for found in parts])

    def adjoint(self, p: Tensor) -> Tensor:
        """Integrals `(n, rays)` to images `(n, ny, nx)`, by the transpose of the weights of `forward`."""
        width = len(self.kinds)
        slot = self._slot.to(p.device)
        columns = [p.new_zeros(self._count * width).index_add(0, slot, item).reshape(-1, width) for item in p]
        sums = [p.new_zeros(self.joseph.pixels, width) for _ in columns]
        kept = self.kept(p.dtype)
        for (start, stop), block in zip(self._blocks, self._matrices(p, kept), strict=True):
            for total, column in zip(sums, columns, strict=True):
                if kept:
                    total += block @ column[start:stop]
                else:
                    block.add_transposed(total, column[start:stop])
        return torch.stack([self._gathered(total) for total in sums])

    def _gathered(self, total: Tensor) -> Tensor:
        images = [
            transformed(total[:, i].reshape(self.joseph.size), kind, back=True) for i, kind in enumerate(self.kinds)
        ]
        return torch.stack(images).sum(0)


class _Integral(torch.autograd.Function):
    """A linear map whose derivative is itself and whose gradient is its adjoint."""

    @staticmethod
    def forward(x: Tensor, matrix: RayMatrix, turned: bool) -> Tensor:
        return matrix.adjoint(x) if turned else matrix.forward(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, RayMatrix, bool], output: Tensor) -> None:
        _, ctx.matrix, ctx.turned = inputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Integral.apply(grads[0], ctx.matrix, not ctx.turned), None, None  # type: ignore[return-value]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Integral.apply(tangents[0], ctx.matrix, ctx.turned)  # type: ignore[return-value]


def integrals(x: Tensor, matrix: RayMatrix) -> Tensor:
    """`RayMatrix.forward` of images `(n, *size)`, with its adjoint as gradient."""
    return _Integral.apply(x, matrix, False)  # type: ignore[return-value]


def back_projection(p: Tensor, matrix: RayMatrix) -> Tensor:
    """`RayMatrix.adjoint` of integrals `(n, rays)`, with its adjoint as gradient."""
    return _Integral.apply(p, matrix, True)  # type: ignore[return-value]
