"""The joint scheme of WISGM: a wavelet network that denoises, a score network that learns of what it makes, and back.

Wu, Wang, Liu, Wang and Zhang (2024, IEEE TMI) publish no code and, where we could read, no equations; this is a sound
reading of their figure.  Of noisy images y = x_0 + n of variance N per coefficient

    L = L_SURE(w) + L_DSM(theta; D_w(y)) + lambda L_fb(w) ,

L_SURE is Stein's unbiased estimate of |D_w(y) - x_0|^2 (Noise2Noise where a second image of the object is there);
L_DSM is the denoising loss of the score network at all clocks, on images D_w(y) that it takes for clean; L_fb is the
distance of D_w(y) to a refinement by the score network.  No gradient passes between the networks.

What it costs, for Gaussian data of variance v and noise s^2, a gain g for D_w: Stein's estimate has its minimum at
kappa = v / (v + s^2), and the prior that is learned from g y has the variance u = g^2 (v + s^2), which is
v^2 / (v + s^2) without feedback: too narrow by kappa.  A refinement that does not look at y, Tweedie's of g y at
sigma_f, adds nothing and shrinks on: g* = kappa / (1 + lambda (1 - rho)), rho = u / (u + sigma_f^2).  One that draws
from the posterior given y, u / (u + s^2) y on average, has g* = (kappa + lambda u / (u + s^2)) / (1 + lambda): the
feedback is neutral, g* = kappa, where the prior is right (u = v), and shrinks less than the other where it is not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from retrodict._check import InputError
from retrodict._random import uniform
from retrodict.bases import Basis
from retrodict.denoisers.network import NetDenoiser
from retrodict.denoisers.shrink import shrunk
from retrodict.nets.joint import JointNet
from retrodict.nets.shrink import WaveletShrink
from retrodict.processes.clocks import at_rest
from retrodict.processes.observation import noise_like
from retrodict.training.ambient import Ambient, Clocks, check_noisy, own_error, posterior_draw
from retrodict.training.losses import Example, Losses, bind, denoising_loss, example, mean_over

__all__ = ["AFTER", "FEEDBACK", "JointScheme", "random_shifts", "refined", "shrink_alone", "shrink_loss"]

FEEDBACK, AFTER = 0.1, 1000
"""Weight of the feedback, and the steps of training before it."""

TARGETS = 4
"""Shifts that an image to learn from is averaged over."""


@dataclass(frozen=True)
class JointScheme:
    """An objective of `train` for a denoiser whose network is a `JointNet`; batches are those of `Ambient`.

    law: of the clocks that the denoiser is to serve; half of the states of D_w(y) have a clock of the law, the others a
    part of the noise of the image.  feedback: the weight lambda, 0 in the first `after` steps of a training.  share:
    part of the items that have a refinement made, which count for all.  consistent: refinements are draws from the
    posterior given y (`posterior_draw`); without it they are what the score network makes of D_w(y) alone, shown as if
    it had the noise of y, to see what that does.

    Errors of the wavelet network are in units of the mean noise of their image.  The loss of the loop's "error" is that
    of both networks.
    """

    law: Clocks
    feedback: float = FEEDBACK
    after: int = AFTER
    share: float = 0.25
    consistent: bool = True

    def __post_init__(self) -> None:
        """Refuse numbers that are no weight, no share and no count."""
        if not 0 <= self.feedback <= 10:
            raise InputError("feedback", self.feedback, "a weight from 0 to 10")
        if self.after < 0:
            raise InputError("after", self.after, "a number of steps from 0")
        if not 0 < self.share <= 1:
            raise InputError("share", self.share, "a share above 0, at most 1")

    def at_step(self, step: int) -> JointScheme:
        """The objective of a step of the training, counted from 0."""
        return replace(self, feedback=0.0) if step < self.after else self

    def __call__(
        self, denoiser: NetDenoiser, batch: Tensor | Example, seeds: Tensor, weight: str, spread_weight: float
    ) -> Losses:
        """The losses of a batch.  Raises `InputError` as `Ambient` does, and for a network that is no `JointNet`."""
        check_noisy(denoiser, weight)
        made, shrink = example(batch, denoiser), _shrink_of(denoiser)
        denoiser = bind(denoiser, None, made.spacing, seeds)
        basis, noise = denoiser.process.basis, _noise_of(made)
        own, image = shrink_loss(shrink, made, seeds, basis)
        with torch.no_grad():
            clean = shrunk(shrink, made.x0, noise, basis, random_shifts(shrink, seeds, TARGETS, "joint-target"))
        clocks = Ambient(self.law, "paper").lower(basis, seeds, noise)
        law = lambda bound, _: at_rest(bound, clocks)  # noqa: E731
        score = denoising_loss(denoiser, Example(clean, spacing=made.spacing), seeds, "unit", spread_weight, law=law)
        total = own + score.total
        if self.feedback > 0:
            total = total + self.feedback * self._fed(denoiser, image, made, seeds)
        return Losses(total, own.detach() + score.error, score.spread)

    def _fed(self, denoiser: NetDenoiser, image: Tensor, made: Example, seeds: Tensor) -> Tensor:
        """|D_w(y) - refinement|^2 over the noise, `(B,)`: of a share of the items, over that share."""
        chosen = uniform(seeds, "joint-feedback", 0) < self.share
        out = torch.zeros(len(seeds), device=image.device, dtype=image.real.dtype)
        if not bool(chosen.any()):
            return out
        place, basis = chosen.nonzero()[:, 0].to(image.device), denoiser.process.basis
        y, noise, seen = made.x0[place], _noise_of(made)[place], image[place]
        target = refined(denoiser, seen.detach(), y, noise, seeds[chosen], consistent=self.consistent)
        found = mean_over(basis.energy(basis.forward(seen - target)), basis) / mean_over(noise, basis)
        return out.index_copy(0, place, found.to(out) / self.share)


def refined(
    denoiser: NetDenoiser, image: Tensor, y: Tensor, noise: Tensor, seeds: Tensor, *, consistent: bool = True
) -> Tensor:
    """What the score network makes of an image D_w(y) `(B, C, *N)` of noisy y, without a gradient.

    consistent: a draw given y, by ancestral steps that each mix y in again (`posterior_draw`); else D(D_w(y)) at the
    clock of y, which knows no more than D_w(y) does.
    """
    with torch.no_grad():
        if consistent:
            return posterior_draw(denoiser, y, noise, seeds)
        t = torch.ones(len(image), dtype=torch.float64, device=image.device)
        return denoiser.at(at_rest(denoiser.process.basis, noise))(image, t)


def shrink_loss(net: WaveletShrink, made: Example, seeds: Tensor, basis: Basis) -> tuple[Tensor, Tensor]:
    """Unbiased estimate of the mean |D_w(y) - x_0|^2 over the mean noise variance, `(B,)`, and D_w(y) `(B, C, *N)`.

    By Stein (`own_error`), or against a second image `made.y` of the same object (Noise2Noise, Lehtinen et al. 2018),
    whose known noise is taken off.  Every item is moved by one random shift, which is that of both calls of Stein's.
    """
    noise = _noise_of(made)
    shifts = random_shifts(net, seeds, 1, "joint-shift")
    denoise = lambda x: shrunk(net, x, noise, basis, shifts)  # noqa: E731
    if made.y is None:
        image, found = own_error(denoise, made.x0, noise, noise_like(made.x0, seeds, "joint-probe", 0), basis)
    else:
        image = denoise(made.x0)
        found = basis.energy(basis.forward(image - made.y)) - noise.to(image.real)
    return mean_over(found, basis) / mean_over(noise, basis).to(found), image


def shrink_alone(
    denoiser: NetDenoiser, batch: Tensor | Example, seeds: Tensor, weight: str, spread_weight: float
) -> Losses:
    """An objective of `train` for the wavelet network of a `JointNet` alone: `shrink_loss`."""
    made, net = example(batch, denoiser), _shrink_of(denoiser)
    loss, _ = shrink_loss(net, made, seeds, bind(denoiser, None, made.spacing, seeds).process.basis)
    return Losses(loss, loss, torch.zeros_like(loss))


def random_shifts(net: WaveletShrink, seeds: Tensor, count: int, stream: str) -> Tensor:
    """Shifts `(B, count, n)` of 0 to 2^levels - 1 pixels an axis, of the seeds."""
    draws = [uniform(seeds, stream, k) for k in range(count * net.ndim)]
    return (torch.stack(draws, 1) * 2**net.levels).long().unflatten(1, (count, net.ndim))


def _shrink_of(denoiser: NetDenoiser) -> WaveletShrink:
    if not isinstance(denoiser.net, JointNet):
        raise InputError("network", type(denoiser.net).__name__, "a JointNet, the network 'joint'")
    return denoiser.net.shrink


def _noise_of(made: Example) -> Tensor:
    if made.noise is None:
        raise InputError("batch", "images of unknown noise", "Example(y, noise=variances)")
    return made.noise
