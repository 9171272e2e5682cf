"""The update of the object: a preconditioned likelihood gradient with momentum, for networks and refinement."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from ptycho_torch.physics.low_pass import low_pass
from ptycho_torch.physics.preconditioner import Acceleration, accelerate_slow_phase

FLOOR = 0.1
"""Fraction of the largest illumination that is added to the illumination: it damps the update of dark pixels."""


class ObjectStep(NamedTuple):
    """The result of an update, complex `[H, W]` each."""

    obj: Complex[Tensor, "H W"]
    velocity: Complex[Tensor, "H W"]
    direction: Complex[Tensor, "H W"]  # before step size and momentum


def damped_illumination(illumination: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """I + 0.1 max I, the divisor of a likelihood gradient: `[…]` → `[…]`. Source: rPIE (Maiden et al. 2017)."""
    return illumination + FLOOR * illumination.max()


def object_step(
    obj: Complex[Tensor, "H W"],
    velocity: Complex[Tensor, "H W"],
    preconditioned: Complex[Tensor, "H W"],
    *,
    acceleration: Acceleration | None,
    step: Float[Tensor, ""] | float,
    momentum: Float[Tensor, ""] | float,
    damping: float = 1.0,
) -> ObjectStep:
    """v ← μ v + η d, O ← O + v, with d the preconditioned gradient g / (I + 0.1 max I), its slow phase accelerated.

    `acceleration` is that of `slow_phase_acceleration`, or None. A `damping` D < 1 multiplies the high spatial
    frequencies of d by D: d ← G∗d + D (d − G∗d), G∗ the `low_pass`. Source: ePIE and rPIE (Maiden et al. 2009, 2017);
    heavy-ball momentum (Polyak 1964).
    """
    direction = preconditioned if acceleration is None else accelerate_slow_phase(preconditioned, obj, acceleration)
    if damping < 1:
        direction = torch.lerp(low_pass(direction), direction, damping)
    moved, velocity = momentum_step(obj, velocity, direction, step=step, momentum=momentum)
    return ObjectStep(moved, velocity, direction)


def momentum_step(
    value: Complex[Tensor, "*shape"],
    velocity: Complex[Tensor, "*shape"],
    direction: Complex[Tensor, "*shape"],
    *,
    step: Float[Tensor, ""] | float,
    momentum: Float[Tensor, ""] | float,
) -> tuple[Complex[Tensor, "*shape"], Complex[Tensor, "*shape"]]:
    """v ← μ v + η d, x ← x + v; returns x and v."""
    velocity = momentum * velocity + step * direction
    return value + velocity, velocity
