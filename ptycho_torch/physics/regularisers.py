"""Regularisers of the object, as a proximal step after each likelihood step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Complex
from torch import Tensor


@runtime_checkable
class Regulariser(Protocol):
    """The interface of a regulariser: any object with this method, called after each update of the object."""

    def proximal(self, obj: Complex[Tensor, "H W"], step: float) -> Complex[Tensor, "H W"]:
        """argmin_x ½ Σ|x − O|² + step · R(x), complex `[H, W]`, for the regulariser R.

        `step` is the step size of the update over the number of updates in a sweep, so that a sweep applies R with
        its step size, whatever the number of subsets.
        """


@dataclass(frozen=True)
class TotalVariation:
    """R(O) = weight · Σ √(|∂_y O|² + |∂_x O|²): few edges, flat between them.

    The proximal step is solved in its dual by projected gradients, p ← P(p + τ ∇(div p + O/λ)), τ = 1/8, P onto
    |p| ≤ 1, x = O + λ div p, λ = weight · step. Source: Chambolle 2004; Beck & Teboulle 2009.
    """

    weight: float
    iterations: int = 20

    def proximal(self, obj: Complex[Tensor, "H W"], step: float) -> Complex[Tensor, "H W"]:
        """See the class."""
        strength = self.weight * step
        if strength == 0:
            return obj
        dual = torch.zeros((2, *obj.shape), dtype=obj.dtype, device=obj.device)
        for _ in range(self.iterations):
            dual = dual + _gradient(_divergence(dual) + obj / strength) / 8
            dual = dual / dual.abs().square().sum(0).sqrt().clamp_min(1)
        return obj + strength * _divergence(dual)


def _gradient(obj: Tensor) -> Tensor:
    """Forward differences (y, x), zero over the rim: `[H, W]` → `[2, H, W]`."""
    down, right = torch.zeros_like(obj), torch.zeros_like(obj)
    down[:-1], right[:, :-1] = obj[1:] - obj[:-1], obj[:, 1:] - obj[:, :-1]
    return torch.stack([down, right])


def _divergence(field: Tensor) -> Tensor:
    """Minus the adjoint of `_gradient`: `[2, H, W]` → `[H, W]`."""
    down, right = field
    total = torch.zeros_like(down)
    total[:-1] += down[:-1]
    total[1:] -= down[:-1]
    total[:, :-1] += right[:, :-1]
    total[:, 1:] -= right[:, :-1]
    return total
