"""A small U-Net for 1-D, 2-D and 3-D images whose answer at a pixel depends on that pixel's neighbourhood alone.

There is no statistic over space or over the batch anywhere: the only normalisation is over the channels of one pixel.
So a network trained on small patches gives the same answer on a whole slice, an image does not change with what else
is in its batch, and tiles equal the whole wherever the receptive field allows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrodict._check import InputError, choice
from retrodict.nets.network import Network

__all__ = ["UNet"]

CONV: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
UP: dict[int, type[nn.ConvTranspose1d] | type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
PLANE, ALONG = (1, 3, 3), (3, 1, 1)  # sides of the convolutions of a network of slices
WINDOW = {1: 64, 2: 8, 3: 4}  # the side of an attention window at the coarsest level: 64 positions in each


def silu(x: Tensor) -> Tensor:
    """Elementwise x * sigmoid(x), with bits that do not depend on where in memory an element lies.

    On a CPU torch computes the last few elements of each thread's share of `F.silu` by other code than the rest, which
    rounds differently. That of tanh has no such tail, and in bfloat16 the two agree on all 65536 numbers. Without
    gradients `x` is overwritten.
    """
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64):
        if not torch.is_grad_enabled():
            x.mul_(0.5)
            return x.addcmul_(x, x.tanh())
        half = 0.5 * x
        return torch.addcmul(half, half, half.tanh())
    return F.silu(x)


def relu(x: Tensor) -> Tensor:
    """max(x, 0), over `x` itself without gradients: the cheapest nonlinearity, with the same bits everywhere."""
    return F.relu(x) if torch.is_grad_enabled() else F.relu_(x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": silu, "relu": relu}


def blocked(x: Tensor, sides: int | tuple[int, ...]) -> Tensor:
    """Blocks of so many pixels an axis as channels: (B, C, *N) -> (B, C * prod(sides), *N / sides)."""
    ndim = x.ndim - 2
    sides = (sides,) * ndim if isinstance(sides, int) else sides
    cut = x.reshape(*x.shape[:2], *(k for n, side in zip(x.shape[2:], sides, strict=True) for k in (n // side, side)))
    inner, outer = range(3, 3 + 2 * ndim, 2), range(2, 2 + 2 * ndim, 2)
    return cut.permute(0, 1, *inner, *outer).flatten(1, 1 + ndim)


def unblocked(x: Tensor, sides: int | tuple[int, ...]) -> Tensor:
    """Undo `blocked`."""
    ndim = x.ndim - 2
    sides = (sides,) * ndim if isinstance(sides, int) else sides
    cut = x.reshape(x.shape[0], -1, *sides, *x.shape[2:])
    order = [k for axis in range(ndim) for k in (2 + ndim + axis, 2 + axis)]
    size = [n * side for n, side in zip(x.shape[2:], sides, strict=True)]
    return cut.permute(0, 1, *order).reshape(x.shape[0], -1, *size)


def steady(conv: nn.Module, x: Tensor) -> Tensor:
    """Convolve (B, C, *N) so that an image's answer has the same bits alone as in a batch.

    On a CPU in float32 torch hands a single small image to other code than a batch, which sums in another order. So
    where it would, the image goes in twice. (The rule is `use_mkldnn` in ATen/native/Convolution.cpp, which counts
    the first four sizes only.)
    """
    if x.shape[0] == 1 and x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[1:4].numel() <= 20480:
        return conv(torch.cat([x, x]))[:1]
    return conv(x)


class Wrap(torch.autograd.Function):
    """Continue each axis of (B, C, *N) by one pixel at both ends, periodically: `F.pad`'s circular mode, but faster."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        for axis in range(2, x.ndim):
            x = torch.cat([x.narrow(axis, x.shape[axis] - 1, 1), x, x.narrow(axis, 0, 1)], axis)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return Unwrap.apply(grad)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Any:
        return Wrap.apply(tangent)


class Unwrap(torch.autograd.Function):
    """The adjoint of `Wrap`: add the pixel beyond each end to the pixel at the other end."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        x = x.clone()
        for axis in range(2, x.ndim):
            n = x.shape[axis] - 2
            x.narrow(axis, n, 1).add_(x.narrow(axis, 0, 1))
            x.narrow(axis, 1, 1).add_(x.narrow(axis, n + 1, 1))
            x = x.narrow(axis, 1, n)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return Wrap.apply(grad)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Any:
        return Unwrap.apply(tangent)


def wrap(x: Tensor) -> Tensor:
    return cast(Tensor, Wrap.apply(x))


class Conv3(nn.Module):
    """A convolution of side 3 that keeps the size: (B, inputs, *N) -> (B, outputs, *N).

    `sides`: 3 along the axes that it reaches over and 1 along the others; none others where it is `circular`.
    """

    def __init__(
        self, ndim: int, inputs: int, outputs: int, *, circular: bool, sides: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        self.circular, sides = circular, sides or (3,) * ndim
        padding = tuple(0 if circular else side // 2 for side in sides)
        self.conv = CONV[ndim](inputs, outputs, sides, padding=padding)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        x = wrap(x) if self.circular else x
        if flat_on_cpu(x):
            with torch.autocast("cpu", enabled=False):
                return steady(self.conv, x.to(self.conv.weight.dtype))
        return steady(self.conv, x)


def flat_on_cpu(x: Tensor) -> bool:
    """Whether x `(B, C, *N)` has three axes, the first of 2 or less, on a CPU.

    There the gradient of a bfloat16 weight is made with memory that nobody has written (torch 2.13, oneDNN): now and
    then it is not a number.  From 3 on it is right.
    """
    return x.ndim == 5 and x.shape[2] <= 2 and x.device.type == "cpu"


class Block(nn.Module):
    """A residual block: channel norm, FiLM, activation, convolution, activation, convolution, sum.

    `x` is (B, C, *N); `scale` and `shift` are (B, C, 1, ...). The norm is over the C channels of each pixel.

    With `slices` both convolutions stay within a slice, and between them every position adds a convolution of itself
    and its two neighbors along the first axis, which starts at zero: a new block treats every slice by itself.
    """

    def __init__(
        self, ndim: int, channels: int, *, circular: bool, activation: str = "silu", slices: bool = False
    ) -> None:
        super().__init__()
        self.channels, self.act = channels, ACTIVATIONS[activation]
        sides = PLANE if slices else None
        self.first = Conv3(ndim, channels, channels, circular=circular, sides=sides)
        self.second = Conv3(ndim, channels, channels, circular=circular, sides=sides)
        self.along = Conv3(ndim, channels, channels, circular=False, sides=ALONG) if slices else None
        if self.along is not None:
            nn.init.zeros_(self.along.conv.weight)
            nn.init.zeros_(self.along.conv.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        h = F.layer_norm(x.movedim(1, -1), (self.channels,)).movedim(-1, 1)  # a view, not a copy, in channels_last
        h = self.act(torch.addcmul(shift.to(h.dtype), h, scale.to(h.dtype)))
        h = self.act(self.first(h))
        h = h if self.along is None else h + self.along(h)
        return x + self.second(h)


class WindowAttention(nn.Module):
    """Self-attention within windows of 64 pixels on a grid fixed at the first pixel: (B, C, *N) -> (B, C, *N)."""

    def __init__(self, ndim: int, channels: int) -> None:
        super().__init__()
        self.ndim, self.channels, self.window = ndim, channels, WINDOW[ndim]
        self.heads = max(h for h in (1, 2, 4) if channels % h == 0)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def split(self, x: Tensor) -> Tensor:
        """Cut (B, *N, C), each N a multiple of the window, into (B * windows, window ** ndim, C)."""
        w, d = self.window, self.ndim
        shape = [x.shape[0], *(s for n in x.shape[1:-1] for s in (n // w, w)), x.shape[-1]]
        order = [0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), 2 * d + 1]
        return x.reshape(shape).permute(order).reshape(-1, w**d, x.shape[-1])

    def join(self, x: Tensor, size: list[int]) -> Tensor:
        """Undo `split`: (B * windows, window ** ndim, C) -> (B, *size, C)."""
        w, d = self.window, self.ndim
        shape = [-1, *(n // w for n in size), *[w] * d, x.shape[-1]]
        order = [0, *(i for a in range(1, d + 1) for i in (a, a + d)), 2 * d + 1]
        return x.reshape(shape).permute(order).reshape(-1, *size, x.shape[-1])

    @staticmethod
    def each(linear: nn.Linear, x: Tensor) -> Tensor:
        """Map each window by its own matrix product, whose bits do not depend on how many windows there are."""
        return torch.baddbmm(linear.bias, x, linear.weight.t().expand(x.shape[0], -1, -1))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1 and x.device.type == "cpu":  # for the reason given at `steady`
            return self.attend(torch.cat([x, x]))[:1]
        return self.attend(x)

    def attend(self, x: Tensor) -> Tensor:
        w, c = self.window, self.channels
        size = list(x.shape[2:])
        short = [-n % w for n in size]
        full = [n + s for n, s in zip(size, short, strict=True)]
        pad = [0, 0] + [p for s in reversed(short) for p in (0, s)]
        h = self.split(F.pad(F.layer_norm(x.movedim(1, -1), (c,)), pad))
        mask = None
        if any(short):  # pixels added to fill the last windows are not attended to
            inside = self.split(F.pad(x.new_ones([1, *size, 1], dtype=torch.bool), pad))[:, None, :, 0]
            mask = inside.repeat(x.shape[0], 1, 1)[:, None]
        q, k, v = self.each(self.qkv, h).unflatten(-1, (3, self.heads, c // self.heads)).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        h = self.join(self.each(self.out, h), full)
        for axis, n in enumerate(size):
            h = h.narrow(axis + 1, 0, n)
        return x + h.movedim(-1, 1)


class Embedding(nn.Module):
    """Fourier features of the level and a small MLP: (B, level_features) -> (B, outputs).

    The frequencies are fixed, 16 of them, geometric from 0.05 to 2 radians per unit. On a CPU each row is computed by
    itself, because a matrix product may sum in another order when more rows come with it.
    """

    frequencies: Tensor

    def __init__(self, features: int, hidden: int, outputs: int) -> None:
        super().__init__()
        steps = torch.linspace(math.log(0.05), math.log(2.0), 16, dtype=torch.float64, device="cpu")
        self.register_buffer("frequencies", steps.exp().float(), persistent=False)
        self.first = nn.Linear(32 * features, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, outputs)

    def row(self, level: Tensor) -> Tensor:
        angle = (level[..., None] * self.frequencies).flatten(-2)
        h = torch.cat([angle.sin(), angle.cos()], -1)
        return self.last(silu(self.second(silu(self.first(h)))))

    def forward(self, level: Tensor) -> Tensor:
        level = level.to(self.first.weight.dtype)
        return torch.stack([self.row(x) for x in level]) if level.device.type == "cpu" else self.row(level)


def filled(x: Tensor, multiples: tuple[int, ...], *, circular: bool) -> Tensor:
    """Pad the axes of (B, C, *N) at their ends to multiples, by wrapping or by reflection; any size will do."""
    for axis, multiple in enumerate(multiples, start=2):
        n = x.shape[axis]
        if n % multiple:
            index = torch.arange(n + -n % multiple, device=x.device)
            if circular or n == 1:
                index = index % n
            else:
                index = index % (2 * n - 2)
                index = torch.minimum(index, 2 * n - 2 - index)
            x = x.index_select(axis, index)
    return x


class UNet(Network):
    """A U-Net with a skip at every resolution, full resolution included.

    `width * multipliers[i]` channels at level i, `blocks` residual blocks on the way down and on the way up at each
    level (2 * blocks at the coarsest), strided convolutions between levels, skips that are added. Every block is
    scaled and shifted by features of `level`, of which there are `level_features` to an image (half log-SNR values,
    about -8 to 8). The last convolution starts at zero, so a new network answers zero.

    With `patch` > 1 the network works on blocks of patch^ndim pixels as channels: the finest convolutions, which cost
    most, run on that many times fewer pixels.  `activation`: "silu", or "relu", which costs less.

    `slices` (three axes, zeros outside): the first axis is that of slices, which are neither blocked nor thinned out.
    Convolutions stay in the plane of a slice, and every block has one of three slices beside them, which starts at
    zero (images inflated to videos so: Ho et al. 2022, Video diffusion models; Singer et al. 2022, Make-A-Video).  A
    block has a sixth more multiplications than one of two axes and starts with its weights (`from_plane`); the network
    reaches as many slices as there are blocks.

    `padding` says what lies outside the image: zeros, or the image again (`circular`). Any size goes in: an axis that
    is no multiple of `stride` is first continued at its end (reflected, or wrapped for `circular`), then cropped.
    So `circular` answers as for a periodic image, equivariant to shifts by the stride, only at such a multiple.

    Tiles equal the whole for pixels at least `receptive_field` from the edge of the tile, if the tile starts at a
    multiple of `stride`. With `attention`, which adds self-attention within windows of 64 pixels at the coarsest
    level, this is lost: it then holds only for tiles that start at multiples of `stride` times the window's side (64
    for one axis, 8 for two, 4 for three), and so is equivariance to other shifts.

    On a CPU an image has the same bits alone and in any batch, in float32 and under bfloat16 autocast, for one number
    of threads; in float64 the last digits may differ between an image alone and in a batch.

    The work is done in channels_last memory, which is what a CPU convolves fastest; the output is contiguous and has
    the dtype of `x`. Under autocast the embedding of the level stays in the dtype of the parameters.
    """

    def __init__(
        self,
        *,
        ndim: int = 2,
        in_channels: int,
        out_channels: int,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 4),
        blocks: int = 1,
        level_features: int = 1,
        embedding: int = 128,
        attention: bool = False,
        padding: Literal["zeros", "circular"] = "zeros",
        patch: int = 1,
        activation: str = "silu",
        slices: bool = False,
    ) -> None:
        super().__init__()
        if ndim not in CONV:
            raise InputError("UNet.ndim", ndim, "1, 2 or 3")
        if slices and (ndim != 3 or padding != "zeros" or attention):
            found = f"{ndim} axes, padding {padding!r}{', attention' if attention else ''}"
            raise InputError("UNet.slices", found, "three axes, padding 'zeros' and no attention")
        multipliers = tuple(multipliers)
        counts = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "width": width,
            "blocks": blocks,
            "level_features": level_features,
            "embedding": embedding,
            "patch": patch,
        }
        for name, value in counts.items():
            if value < 1:
                raise InputError(f"UNet.{name}", value, "a whole number of at least 1")
        if not multipliers or min(multipliers) < 1:
            raise InputError("UNet.multipliers", multipliers, "one whole number of at least 1 for each level")
        choice("UNet.padding", padding, ("zeros", "circular"))
        choice("UNet.activation", activation, ACTIVATIONS)
        self.ndim, self.in_channels, self.out_channels = ndim, in_channels, out_channels
        self.level_features, self.blocks, self.levels = level_features, blocks, len(multipliers)
        self.circular = circular = padding == "circular"
        self.mapped = True
        self.slices, self.patch = slices, patch
        self.sides, halves = self._thinned(patch), self._thinned(2)
        pixels = math.prod(self.sides)
        sides = PLANE if slices else None

        channels = [width * m for m in multipliers]
        pairs = list(itertools.pairwise(channels))
        every = channels[:-1] + 2 * channels[-1:] + channels[-2::-1]
        self.film = [c for c in every for _ in range(blocks)]  # the channels of each block, in the order of use
        self.embed = Embedding(level_features, embedding, 2 * sum(self.film))
        self.stem = Conv3(ndim, in_channels * pixels, channels[0], circular=circular, sides=sides)
        self.residual = nn.ModuleList(
            Block(ndim, c, circular=circular, activation=activation, slices=slices) for c in self.film
        )
        self.down = nn.ModuleList(
            CONV[ndim](a, b, halves, stride=halves)  # pyright: ignore[reportArgumentType]
            for a, b in pairs
        )
        self.up = nn.ModuleList(
            UP[ndim](b, a, halves, stride=halves)  # pyright: ignore[reportArgumentType]
            for a, b in pairs
        )
        self.attend = WindowAttention(ndim, channels[-1]) if attention else None
        self.head = Conv3(ndim, channels[0], out_channels * pixels, circular=circular, sides=sides)
        nn.init.zeros_(self.head.conv.weight)
        nn.init.zeros_(self.head.conv.bias)  # pyright: ignore[reportArgumentType]

    def _thinned(self, factor: int) -> tuple[int, ...]:
        """A factor of every axis, 1 of that of the slices."""
        return (1, *[factor] * (self.ndim - 1)) if self.slices else (factor,) * self.ndim

    def from_plane(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of this network of `slices` from those of the same one of two axes: every slice by itself at first.

        weights: a state as `plane_state` is one.
        """
        own = self.state_dict()
        lifted = {name: x.unsqueeze(2) if own[name].ndim == 5 else x for name, x in weights.items()}
        return {**own, **lifted}

    def plane_state(self) -> dict[str, Tensor]:
        """The state of the same network of two axes, for its names, shapes and dtypes; `slices` only."""
        if not self.slices:
            raise InputError("UNet.plane_state", "a network without slices", "one with slices=True")
        state = {name: x for name, x in self.state_dict().items() if ".along." not in name}
        return {name: x.select(2, 0) if x.ndim == 5 else x for name, x in state.items()}

    @property
    def stride(self) -> int:  # type: ignore[override]
        """Pixels between neighbours at the coarsest level: tiles that start at its multiples equal the whole."""
        return self.patch * self._stride

    @property
    def _stride(self) -> int:
        return 2 ** (self.levels - 1)  # in blocks

    @property
    def receptive_field(self) -> int:  # type: ignore[override]
        """The farthest, in pixels along an axis, that an input pixel can be and still change an output pixel."""

        def reach(level: int, lo: int, hi: int) -> tuple[int, int]:
            # the pixels at the input of `level`, first and last, that [lo, hi] at its output depends on
            b = 2 * self.blocks  # each block has two convolutions of side 3
            lo, hi = lo - b, hi + b
            if level == self.levels - 1:
                if self.attend is not None:
                    w = self.attend.window
                    lo, hi = lo // w * w, hi // w * w + w - 1
            else:
                below = reach(level + 1, lo // 2, hi // 2)
                lo, hi = min(lo, 2 * below[0]), max(hi, 2 * below[1] + 1)
            return lo - b, hi + b

        far = 0
        for p in range(self._stride * (self.attend.window if self.attend is not None else 1)):
            lo, hi = reach(0, p - 1, p + 1)
            far = max(far, p - lo + 1, hi + 1 - p)
        return far * self.patch + self.patch - 1  # from one end of a block to the other end of another

    def forward(self, x: Tensor, level: Tensor, weights: Tensor | None = None) -> Tensor:
        """Map images `x` (B, in_channels, *N) and their `level` (B, level_features) to (B, out_channels, *N).

        With `weights` (B, K, *N), which sum to 1 over K, there are K levels (B, K, level_features) of each image, and
        scale and shift of every block are fields: those of the levels, in the shares of the weights at its resolution.
        """
        if x.ndim != self.ndim + 2 or x.shape[1] != self.in_channels or 0 in x.shape[2:]:
            want = f"(B, {self.in_channels}, " + ", ".join("XYZ"[: self.ndim]) + ")"
            raise InputError("UNet: the shape of x", tuple(x.shape), want)
        count = () if weights is None else (weights.shape[1],)
        if level.shape != (x.shape[0], *count, self.level_features):
            raise InputError("UNet: the shape of level", tuple(level.shape), (x.shape[0], *count, self.level_features))
        if weights is not None and weights.shape[2:] != x.shape[2:]:
            raise InputError("UNet: the shape of weights", tuple(weights.shape), (x.shape[0], *count, *x.shape[2:]))
        with torch.autocast(x.device.type, enabled=False):
            embedded = self.embed(level.flatten(0, -2)).unflatten(0, level.shape[:-1])
        films = iter(embedded.split([2 * c for c in self.film], -1))
        shares = None if weights is None else self._shares(weights.to(embedded))
        residual = iter(self.residual)

        def run(h: Tensor, depth: int) -> Tensor:
            for _ in range(self.blocks):
                film = next(films)
                if shares is None:
                    film = film.reshape(*film.shape, *[1] * self.ndim)
                else:
                    film = torch.einsum("bkc,bk...->bc...", film, shares[depth])
                scale, shift = film.chunk(2, 1)
                h = next(residual)(h, 1 + scale, shift)
            return h

        h = filled(x, self._thinned(self.stride), circular=self.circular)
        h = blocked(h, self.sides) if self.patch > 1 else h
        if self.ndim > 1:
            h = h.movedim(1, -1).contiguous().movedim(-1, 1)  # channels_last, said so that vmap understands
        h = self.stem(h)
        skips = []
        for depth, down in enumerate(self.down):
            skips.append(run(h, depth))
            h = steady(down, skips[-1])
        h = run(h, -1)
        if self.attend is not None:
            h = self.attend(h)
        h = run(h, -1)
        for depth, up in reversed(list(enumerate(self.up))):
            h = run(steady(up, h) + skips.pop(), depth)
        h = self.head(h)
        h = unblocked(h, self.sides) if self.patch > 1 else h
        for axis, n in enumerate(x.shape[2:], 2):
            h = h.narrow(axis, 0, n)
        return h.to(x.dtype).contiguous()

    def _shares(self, weights: Tensor) -> list[Tensor]:
        """The weights of the levels at every resolution, finest first: means over what a pixel there stands for."""
        pool = POOL[self.ndim]
        found = filled(weights, self._thinned(self.stride), circular=self.circular)
        out = [pool(found, self.sides) if self.patch > 1 else found]
        for _ in self.down:
            out.append(pool(out[-1], self._thinned(2)))
        return out
