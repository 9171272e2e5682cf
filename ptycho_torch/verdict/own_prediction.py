"""Each pattern under the prediction at its own position, against those at its neighbours' positions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

OTHER_POSITIONS = 20
DARK = 1e-3
"""Added to predicted counts, relative to their mean, where predictions are compared: a dark pixel is never certain."""
SAME = 1e-5
"""Expected gain per photon below which two predictions are the same, which single precision cannot tell apart."""


class OwnPrediction(NamedTuple):
    """How much better patterns are explained by the predictions at their own positions than by those at others."""

    wins: float  # share of other positions whose prediction explains a pattern worse than its own
    expected_wins: float  # the same, if the predictions are right
    gain: float  # of the log-likelihood, relative to its expectation
    error: float  # standard deviation of that by photon noise


def own_prediction(
    predicted: Tensor,
    counts: Tensor,
    valid: Tensor,
    positions: Tensor,
) -> OwnPrediction:
    """Each pattern's prediction against those at its nearest other positions.

    predicted, counts `[k, N, N]`, valid bool `[k, N, N]`, positions `[k, 2]`.

    ln L_jk = Σ n_j ln p_k with p_k = λ_k/Σλ_k: the brightness of a frame says nothing. With right predictions the gain
    over k has the mean D = Σ λ_j ln(p_j/p_k) (Kullback & Leibler 1951) and the variance Σ λ_j ln²(p_j/p_k). The gain is
    linear in the counts, so noise beyond that of photons does not bias it.
    """
    shares, seen, measured = (part.flatten(1).float() for part in (predicted, valid, counts))
    shares = shares + DARK * shares.mean(1, keepdim=True)
    others = nearest_others(positions)
    logs = shares.log()
    totals = (seen @ shares.T).log()  # ln Σ_valid-in-j λ_k
    own = seen * shares
    own = own * (measured.sum(1) / own.sum(1)).unsqueeze(1)  # λ_j with the photons of the pattern

    def likelihood(light: Tensor) -> Tensor:
        table = light @ logs.T - light.sum(1, keepdim=True) * totals
        return table.diagonal().unsqueeze(1) - table.gather(1, others)

    gain, expected = likelihood(measured), likelihood(own)
    second = own @ logs.square().T
    cross = (own * logs) @ logs.T
    squares = second.diagonal().unsqueeze(1) + second - 2 * cross
    shift = totals.diagonal().unsqueeze(1) - totals
    first = (own * logs).sum(1, keepdim=True) - own @ logs.T
    variance = squares - 2 * shift * first + own.sum(1, keepdim=True) * shift.square()
    variance = variance.gather(1, others).clamp_min(1e-12)
    tells = expected > SAME * own.sum(1, keepdim=True).clamp_min(1e-9)
    if not tells.any():
        return OwnPrediction(1.0, 1.0, 1.0, math.inf)
    wins = (gain >= 0)[tells].float().mean()
    chance = torch.special.ndtr(expected / variance.sqrt())[tells].mean()
    total = expected[tells].sum()
    spread = variance[tells].sum().sqrt() * math.sqrt(others.shape[1])  # the noise of a pattern is the same for all k
    return OwnPrediction(float(wins), float(chance), float(gain[tells].sum() / total), float(spread / total))


def nearest_others(positions: Tensor) -> Tensor:
    """The places of the nearest `OTHER_POSITIONS` of each position, nearest first: int64 `[k, m]`."""
    distance = torch.cdist(positions.double(), positions.double())
    distance.fill_diagonal_(math.inf)
    return distance.argsort(dim=1, stable=True)[:, : min(OTHER_POSITIONS, len(positions) - 1)]
