"""The affine-Gaussian forward process, diagonal in a basis: the mathematics everything else is written against.

Per coefficient, with z white, x_0 the clean image and c a condition image,

    B x_t = h(t) B x_0 + k(t) B c + s(t) z .

All coefficient tables are float64 and broadcast to `(B, C, *K)`, on the device of their basis; times are float64
`(B,)` in [0, 1], 0 = clean.  Per coefficient the process is a variance-exploding one with its own clock r = s^2 / h^2.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from retrodict._check import InputError, Recipe
from retrodict.bases import Basis
from retrodict.processes.observation import Kind, Moments, Pairing, clock, clock_ratio, lift, log_snr_step, ratio

__all__ = ["Law", "NoiseMemory", "Process", "Rates", "assemble"]

Law = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""t, float64, shaped to broadcast over (B, 1, *K) -> (h, k, s2)."""


NoiseMemory = Callable[[Basis], Callable[[Tensor], Tensor]] | Literal["frozen", "independent"]
"""basis -> t -> A(t); "frozen" is A = s (one noise for all times), "independent" A = 1 (independent increments)."""


class Rates(NamedTuple):
    """Drift F = h'/h and diffusion G^2 = (s^2)' - 2 F s^2 of dw = F w dt + G dW, and their ingredients."""

    F: Tensor
    G2: Tensor
    dh: Tensor
    dk: Tensor
    ds2: Tensor


NO_PAIRING = Pairing()

_VERDICTS: dict[tuple[str, Basis], tuple[int, float] | None] = {}
"""First decrease of the clock of processes that have a recipe, by recipe and small grid."""

_BLOCK = 32
"""Times that are looked at together."""


@dataclass(frozen=True)
class Process:
    """One forward process bound to a basis.

    `family(basis)` returns its law (h, k, s^2)(t).  `pairing` says where a measured image stands.  `memory(basis)` is
    the noise-memory gain A(t) with Cov(x_s, x_t | x_0) = (A_t / A_s) s_s^2 for s < t; None is the Markov choice A = h,
    "independent" A = 1 and "frozen" A = s: one noise for all times, a deterministic path.
    """

    family: Callable[[Basis], Law]
    basis: Basis
    pairing: Pairing = NO_PAIRING
    memory: NoiseMemory | None = None
    recipe: Recipe | None = None
    grid_free: bool = False
    """Without a recipe: whether the law is a function of frequency, so that a small grid may stand for a large one."""

    # ---- the law -------------------------------------------------------------------------------------------------

    @cached_property
    @torch.inference_mode(mode=False)  # tables outlive the call that first asks for them
    def law(self) -> Law:
        """The law bound to this basis."""
        return self.family(self.basis)

    @cached_property
    def measurement(self) -> Moments | None:
        """The law of the measured image bound to this basis, or None where it is not known."""
        return self.pairing.moments(self.basis)

    @property
    def ndim(self) -> int:
        """Number of image axes."""
        return self.basis.ndim

    def on(self, size: tuple[int, ...]) -> Process:
        """The same process on another image grid of the same spacing."""
        return self if tuple(size) == tuple(self.basis.size) else replace(self, basis=self.basis.on(tuple(size)))

    def to(self, device: str | torch.device) -> Process:
        """The same process with its tables on another device."""
        return self if str(device) == self.basis.device else replace(self, basis=self.basis.to(device))

    def moments(self, t: Tensor) -> Moments:
        """h, k, s^2 at times t `(B,)`."""
        time = lift(t.to(device=self.basis.device, dtype=torch.float64), self.ndim)
        return Moments(*(value.double() for value in self.law(time)))

    def tables(self) -> list[Tensor]:
        """What tells this process from others on its grid: its law halfway and at its end, and that of the measurement,
        which the chain itself does not hold where it stands beside it.
        """
        times = (torch.tensor([t], dtype=torch.float64, device="cpu") for t in (0.5, 1.0))
        return [*(table for t in times for table in self.moments(t)), *(self.measurement or ())]

    def rates(self, t: Tensor) -> Rates:
        """Drift and diffusion at t `(B,)` by forward-mode differentiation of the law in float64.

        F = h'/h, G^2 = (s^2)' - 2 F s^2 = h^2 dr/dt (Fourier diffusion, eqs. 11-13).  Round-off below
        1e-8 max G^2 (of the item) is clamped to zero; a negative G^2 beyond that is kept, and `markov` is then False.
        """
        time = lift(t.to(device=self.basis.device, dtype=torch.float64), self.ndim)
        (h, _, s2), (dh, dk, ds2) = torch.func.jvp(self.law, (time,), (torch.ones_like(time),))[:2]
        drift = ratio(dh, h, otherwise=-torch.inf)
        squared = ds2 - 2 * torch.where(torch.isfinite(drift), drift, 0.0) * s2
        largest = squared.abs().amax(dim=tuple(range(1, squared.ndim)), keepdim=True)
        tiny = (squared < 0) & (squared > -1e-8 * largest.clamp_min(1e-300))
        return Rates(drift, torch.where(tiny, 0.0, squared), dh, dk, ds2)

    def clock(self, t: Tensor) -> Tensor:
        """Noise clock r = s^2 / h^2 per coefficient at t `(B,)`, infinite where h = 0."""
        return clock(self.moments(t))

    def memory_gain(self, t: Tensor) -> Tensor:
        """A(t); equals h for a Markov process."""
        if self.memory is None:
            return self.moments(t).h
        if self.memory in ("frozen", "independent"):
            s2 = self.moments(t).s2
            return s2.sqrt() if self.memory == "frozen" else torch.ones_like(s2)
        time = lift(t.to(device=self.basis.device, dtype=torch.float64), self.ndim)
        return self.memory(self.basis)(time).double()

    # ---- facts, each found once on the CPU -----------------------------------------------------------------------

    @cached_property
    def _small(self) -> Process:
        """A process from the dictionary is a function of frequency or band, not of the grid: a small one stands for
        it, and for one that says so (`grid_free`).  A law of the user's own is looked at on its whole grid.
        """
        whole = self.recipe is None and not self.grid_free
        return self if whole else replace(self, basis=self.basis.small().to("cpu"))

    @cached_property
    def admissible(self) -> bool:
        """Whether s^2/A^2 never decreases in t at any coefficient, on 1001 times: stochastic steps exist iff so."""
        return self.memory == "frozen" or self.first_decrease is None

    @property
    def markov(self) -> bool:
        """Whether the states are a Markov chain: A = h, and a clock that never decreases.

        Only then is there an SDE whose drift does not know x_0.
        """
        return self.memory is None and self.admissible

    @cached_property
    def first_decrease(self) -> tuple[int, float] | None:
        """(flat coefficient index, time) of the first decrease of s^2/A^2 on a small grid, or None."""
        process = self._small
        if process.recipe is None:
            return process._search()
        memory = self.memory if self.memory is None or isinstance(self.memory, str) else "own"
        name = (json.dumps([process.recipe.to_json(), memory], sort_keys=True), process.basis)
        if name not in _VERDICTS:
            _VERDICTS[name] = process._search()
        return _VERDICTS[name]

    def _search(self) -> tuple[int, float] | None:
        times = torch.linspace(0, 1, 1001, dtype=torch.float64, device="cpu")
        single = self.moments(times[:1]).s2.shape[0] == 1  # else the law has a row for every item
        for first in range(0, len(times) - 1, _BLOCK):
            t = times[first : first + _BLOCK + 1]
            r = self._memory_clock(t) if single else torch.cat([self._memory_clock(x[None]) for x in t])
            before, after = r[:-1], r[1:]
            drop = torch.where(torch.isfinite(after) | torch.isfinite(before), before - after, 0.0)
            least = (1e-10 * torch.where(torch.isfinite(before), before, 0.0)).clamp_min(1e-13)
            bad = drop > least
            if bool(bad.any()):
                row, column = divmod(int(bad.flatten().nonzero()[0]), bad.shape[1])
                return column, float(t[row + 1])
        return None

    def _memory_clock(self, t: Tensor) -> Tensor:
        """s^2/A^2 at times `(n,)`, a row for each."""
        moments = self.moments(t)
        return clock(moments._replace(h=self.memory_gain(t))).expand_as(moments.h + moments.s2).reshape(len(t), -1)

    def require_markov(self, what: str) -> None:
        """Raise where there is no SDE: the clock decreases, or the noise has a memory of its own."""
        self.require_admissible(what)
        if self.memory is not None:
            raise InputError(
                what,
                "a process that is not Markov: its noise has a memory of its own",
                "a Markov one, whose SDE this rule integrates",
                "matched, ancestral and sde_exponential take any noise memory; so do the deterministic rules.",
            )

    def require_admissible(self, what: str) -> None:
        """Raise where stochastic steps are not defined."""
        if not self.admissible:
            index, time = self.first_decrease  # type: ignore[misc]
            raise InputError(
                what,
                f"a process whose noise clock decreases (coefficient {index}, t = {time:.3f})",
                "a clock s^2/h^2 that never decreases",
                "Deterministic rules (ddim with eta 0, dpmpp2m, gaussian_ode) remain defined.",
            )

    @cached_property
    def anchored(self) -> bool:
        """Whether k(t) is not zero everywhere, so that the state is pulled towards a condition image."""
        return self._ever(torch.linspace(0, 1, 21, dtype=torch.float64, device="cpu"), lambda m: m.k != 0)

    @cached_property
    def clock_spread(self) -> float:
        """Largest distance of log r between two coefficients at one time, of 21: 0 for a clock that all share.

        Rules that are not exact in the Gaussian part step in log r, all coefficients on one time grid; they need more
        steps the farther the clocks are apart.  Erased and noise-free coefficients do not count.
        """
        widest = 0.0
        for t in torch.linspace(0, 1, 21, dtype=torch.float64, device="cpu"):
            log = self._small.clock(t[None]).log()
            log = log[torch.isfinite(log)]
            widest = max(widest, float(log.max() - log.min()) if log.numel() else 0.0)
        return widest

    def noise_free(self, times: Tensor) -> bool:
        """Whether no coefficient carries noise at any of the times `(n,)`."""
        return not self._ever(times, lambda m: m.s2 != 0)

    def erases(self, times: Tensor) -> bool:
        """Whether some coefficient has lost the image at one of the times `(n,)`: h = 0."""
        return self._ever(times, lambda m: m.h == 0)

    def grows(self, times: Tensor) -> bool:
        """Whether some coefficient has lost nothing at one of the times `(n,)` though it is noisy, or has grown."""
        return self._ever(times, lambda m: (m.h > 1) | ((m.h == 1) & (m.s2 > 0)))

    def _ever(self, times: Tensor, what: Callable[[Moments], Tensor]) -> bool:
        """Whether something holds at one of the times; one at a time, because a law may have a row for every item."""
        return any(bool(what(self._small.moments(t[None])).any()) for t in times.cpu())

    def pinned(self, t: Tensor) -> bool:
        """Whether some coefficient is known exactly at t `(1,)`, h = s = 0, and carries noise on the way there.

        Such is the end of a bridge.  What it leaves with has to be drawn: no deterministic step keeps its variance.
        """
        return bool(self._small.pins(t.cpu()).any())

    def pins(self, t: Tensor) -> Tensor:
        """The coefficients that are pinned at t `(1,)`; one that never carries noise is not."""
        end = self.moments(t)
        return (end.h == 0) & (end.s2 == 0) & (self.moments(t / 2).s2 != 0)

    def stops(self, times: Tensor) -> bool:
        """Whether some coefficient carries noise and takes up none at one of the times `(n,)`: s > 0, G^2 = 0."""
        small = self._small
        return any(bool(((small.rates(t[None]).G2 == 0) & (small.moments(t[None]).s2 != 0)).any()) for t in times.cpu())

    # ---- states --------------------------------------------------------------------------------------------------

    def corrupt(self, x0: Tensor, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        """x_t = B^-1 [h B x_0 + k B c + s B z]; x0, z `(B, C, *N)`, t `(B,)` -> `(B, C, *N)`."""
        m = self.moments(t)
        u = m.h.to(x0.real) * self.basis.forward(x0) + m.s2.sqrt().to(x0.real) * self.basis.forward(z)
        return self.to_image(u, t, c)

    def to_image(self, w: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """Shifted coefficients w = u - k B c `(B, C, *K)` to the image x_t `(B, C, *N)`."""
        return self.basis.inverse(w) if c is None else self.basis.inverse(w + self._pull(t, c))

    def to_coefficients(self, xt: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """Image x_t `(B, C, *N)` to shifted coefficients w = u - k B c `(B, C, *K)`."""
        u = self.basis.forward(xt)
        return u if c is None else u - self._pull(t, c)

    def _pull(self, t: Tensor, c: Tensor) -> Tensor:
        return self.moments(t).k.to(c.real) * self.basis.forward(c)

    def tweedie(self, gradient: Tensor, t: Tensor) -> Tensor:
        """What a gradient of log p in x_t adds to the denoised image: B^-1 [s^2/h B gradient], `(B, C, *N)`.

        From E[x_0 | x_t] = (x_t + s^2 grad log p(x_t)) / h (Tweedie), per coefficient; nothing where h = 0.
        """
        m = self.moments(t)
        return self.basis.inverse(ratio(m.s2, m.h).to(gradient.real) * self.basis.forward(gradient))

    def start(
        self, z: Tensor, y: Tensor | None = None, mean: Tensor | float = 0.0, variance: Tensor | None = None
    ) -> Tensor:
        """Shifted coefficients w_1 `(B, C, *K)` at t = 1 from white noise z `(B, C, *N)`.

        terminal: w_1 is the measured image y itself.  Otherwise w_1 = h m + sqrt(s^2 + h^2 L) B z, the exact marginal
        for data N(m, L) (`mean` and `variance` in coefficients) given y where its law is known; N(0, s^2) without a
        variance.  A process that is pulled to a condition image needs y.
        """
        if self.pairing.starts:
            if y is None:
                raise InputError("start", "no measurement", "the measured image: this process starts at it (terminal)")
            return self.to_coefficients(y, torch.ones(1, dtype=torch.float64, device="cpu"))
        if self.anchored and y is None:
            raise InputError("start", "no condition image", "the image that this mean-reverting process is pulled to")
        if y is not None and variance is not None and self.pairing.sees:
            mean, variance = self.pairing.given(torch.as_tensor(mean, device=z.device), variance, y, self.basis)
        m, real = self.moments(torch.ones(1, dtype=torch.float64, device="cpu")), z.real.dtype
        total = m.s2 if variance is None else m.s2 + m.h**2 * variance
        noise = total.sqrt().to(real) * self.basis.forward(z)
        return (
            noise
            if isinstance(mean, float) and mean == 0.0
            else noise + m.h.to(real) * torch.as_tensor(mean, dtype=noise.dtype, device=noise.device)
        )

    # ---- transitions ---------------------------------------------------------------------------------------------

    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """H_D = h_t / h_s and Sigma_D = s_t^2 - H_D^2 s_s^2 of w_t | w_s, s < t (eqs. 7-8).

        With a noise memory of its own, of the noise alone: n_t | n_s, n = w - h u_0, has the gain A_t / A_s.  Between
        two erased levels of a Markov process nothing is added (q = 1, as in `conditional`): the gain is s_t / s_s.
        """
        ms, mt = self.moments(s), self.moments(t)
        gain = ratio(self.memory_gain(t), self.memory_gain(s))
        if self.memory is None:
            gain = torch.where((ms.h == 0) & (mt.h == 0), ratio(mt.s2, ms.s2).sqrt(), gain)
        return gain, mt.s2 - gain**2 * ms.s2

    def conditional(self, t: Tensor, s: Tensor, eta: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (keep, data, std) of q(w_s | w_t, u_0) = N(keep w_t + data u_0, std^2), s < t.

        With q = r_s / r_t and V = s_s^2 (1 - q): std = eta sqrt(V), keep = (s_s/s_t) sqrt(1 - eta^2 (1 - q)),
        data = h_s - keep h_t.  eta = 1 is the exact (ancestral) conditional, eta = 0 the deterministic member; each
        preserves the marginals (Song, Meng, Ermon 2020, eq. 7, per coefficient).  A noise memory of its own has
        q = (A_t s_s / A_s s_t)^2 in keep and V.  Degenerate coefficients: clean at t (s_t = 0 < h_t) keep h_s/h_t;
        erased at t (h_t = 0) have q = 0; pinned at t (h_t = s_t = 0) are drawn anew at any eta, std = s_s.
        """
        mt, ms = self.moments(t), self.moments(s)
        q = clock_ratio(ms, mt)
        memory = self._memory_ratio(t, s, mt, ms)
        shrink = ((1 - eta**2) + eta**2 * memory).clamp_min(0.0).sqrt()  # in this form a tiny ratio keeps its digits
        keep = ratio(ms.s2, mt.s2).sqrt() * shrink
        data = ms.h * (1 - q.clamp_min(0.0).sqrt() * shrink)
        std = eta * (ms.s2 * (1 - memory)).clamp_min(0.0).sqrt()
        clean = (mt.s2 == 0) & (mt.h != 0)
        keep = torch.where(clean, ratio(ms.h, mt.h), keep)
        data = torch.where(clean, 0.0, torch.where(mt.h == 0, ms.h, data))
        return keep, data, torch.where(mt.s2 == 0, ms.s2.sqrt(), std)

    def memory_step(self, t: Tensor, s: Tensor) -> Tensor:
        """X_s - X_t >= 0 of the memory clock X = log(A/s), s < t: that of l where A = h, 0 for frozen noise."""
        mt, ms = self.moments(t), self.moments(s)
        return log_snr_step(mt, ms) if self.memory is None else -0.5 * self._memory_ratio(t, s, mt, ms).log()

    def _memory_ratio(self, t: Tensor, s: Tensor, mt: Moments, ms: Moments) -> Tensor:
        """exp(-2 dX) = (A_t^2 s_s^2) / (A_s^2 s_t^2), the correlation that survives from s to t."""
        if self.memory is None:
            return clock_ratio(ms, mt)
        if self.memory == "frozen":
            return torch.where(mt.s2 == 0, 0.0, torch.ones_like(ms.s2 * mt.s2))
        return ratio(self.memory_gain(t) ** 2 * ms.s2, self.memory_gain(s) ** 2 * mt.s2)


def assemble(
    family: Callable[[Basis], Law],
    basis: Basis,
    name: str,
    options: dict[str, Any],
    *,
    conditioning: Kind = "none",
    measurement: Callable[[Basis], Moments] | None = None,
    memory: NoiseMemory | None = None,
    **unknown: Any,
) -> Process:
    """A process and the recipe that rebuilds it: `name` in PROCESSES and its options."""
    if unknown:
        raise InputError(f"process {name!r}", f"option {sorted(unknown)[0]!r}", "a documented option")
    if conditioning not in ("none", "terminal", "external"):
        raise InputError(f"process {name!r} conditioning", conditioning, "none, terminal or external")
    recipe = Recipe(name, {**options, "conditioning": conditioning})
    return Process(family, basis, Pairing(conditioning, measurement), memory, recipe)
