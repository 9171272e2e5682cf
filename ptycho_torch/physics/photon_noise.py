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


def noise_of(expected: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """What the noise of a Poisson count n with mean λ [photons] leaves of two misfits, interpolated linearly in ln λ.

    E[(√n − √λ)²]: 2λ for few photons, ¼ for many (Bartlett 1936). E[2(λ − n + n ln(n/λ))], the deviance: 1 for many.
    """
    tables = _tables().to(expected.device)
    place = (expected.clamp(LEAST, MOST).log() - math.log(LEAST)) * ((ROWS - 1) / math.log(MOST / LEAST))
    row = place.int().clamp_max_(ROWS - 2)
    beyond, flat = place - row, row.flatten()
    at = (part.index_select(0, flat).view_as(place) for table in tables for part in (table, table.diff()))
    amplitude, deviance = (torch.addcmul(start, slope, beyond) for start, slope in zip(at, at, strict=True))
    return 2 * expected / (1 + 8 * expected) * amplitude, deviance


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
