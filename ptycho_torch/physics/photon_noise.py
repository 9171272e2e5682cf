"""What photon noise alone leaves between measured counts and the expected ones."""

from __future__ import annotations

import math
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

LEAST, MOST = 1e-6, 1000.0
"""Expected counts at the ends of the tables: below, a pixel adds nothing; above, many photons' limits hold to 0.1 %."""
ROWS = 400


def amplitude_noise(expected: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """E[(√n − √λ)²] of a Poisson count n with mean λ [photons]: 2λ for few photons, ¼ for many (Bartlett 1936)."""
    return 2 * expected / (1 + 8 * expected) * _looked_up(expected, 0)


def deviance_noise(expected: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """E[2(λ − n + n ln(n/λ))], the mean deviance of a Poisson count n with mean λ [photons]: 1 for many photons."""
    return _looked_up(expected, 1)


def _looked_up(expected: Tensor, table: int) -> Tensor:
    """Linear interpolation in ln λ."""
    values = _tables()[table].to(expected.device)
    place = (expected.clamp(LEAST, MOST).log() - math.log(LEAST)) * ((ROWS - 1) / math.log(MOST / LEAST))
    below = place.floor().clamp_max(ROWS - 2)
    return torch.lerp(values[below.long()], values[below.long() + 1], place - below)


@cache
def _tables() -> Tensor:
    """Both expectations over the grid of λ, float32 `[2, ROWS]`; the first relative to 2λ/(1 + 8λ)."""
    mean = torch.logspace(math.log(LEAST), math.log(MOST), ROWS, base=math.e, dtype=torch.float64).unsqueeze(1)
    counts = torch.arange(int(MOST + 10 * math.sqrt(MOST)), dtype=torch.float64)
    chance = (counts * mean.log() - mean - torch.lgamma(counts + 1)).exp()
    squares = (counts.sqrt() - mean.sqrt()).square()
    deviance = 2 * (mean - counts + torch.xlogy(counts, counts / mean))
    amplitude = (chance * squares).sum(1) / (2 * mean / (1 + 8 * mean)).squeeze(1)
    return torch.stack([amplitude, (chance * deviance).sum(1)]).float()
