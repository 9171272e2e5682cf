"""How the positions lie against the detector, by the deflections of the beam alone: no probe, no reconstruction.

The centre of mass of a far-field pattern is the mean gradient of the exit wave's phase, in the axes of the detector.
As a function of the true positions it is the gradient of a smooth potential ψ, so that it has no curl. With true
positions M·r, M orthogonal, Mᵀ·c(r) has none in the given positions r. ψ is a Gaussian process of length ℓ: the
covariance of two deflections a distance d·ℓ apart is (1 − d dᵀ)·exp(−d²/2), beside noise. Mᵀ = R(θ)·diag(1, ±1) is
linear in cos θ and sin θ: the likelihood is greatest at an eigenvector of a 2 x 2 matrix, exact for all angles at once.

Minimal curl: Savitzky et al., Ultramicroscopy 229, 113359 (2021) and py4DSTEM find the angle of a raster with it. Here
positions may lie anywhere, and lags are compared as well. M and −M, the twin, have the same likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from ptycho_torch.data.geometry import neighbour_distance
from ptycho_torch.data.scan import Scan

LENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""ℓ over the distance of neighbours: ℓ is about the root-mean-square radius of the probe, which may not be known."""
NOISES = (0.03, 0.3)
"""Variance of the noise over that of the signal."""
QUARTER = np.array([[0.0, -1.0], [1.0, 0.0]])
CHUNK = 256
"""Patterns that are read at once."""


@dataclass(frozen=True)
class Relation:
    """Pattern j was taken at M·r of position j + `lag`."""

    lag: int
    matrix: np.ndarray  # M, orthogonal [2, 2], acts on (y, x)
    log_likelihood: float  # up to a constant of the scan
    sharpness: float = 0.0  # ln L(θ + δ) = ln L(θ) − n·ln(1 + sharpness·sin²δ), n patterns
    patterns: int = 1

    def degrees_within(self, nats: float) -> float:
        """By how much M may be turned before it is less likely by so many nats."""
        squared = np.expm1(nats / self.patterns) / max(self.sharpness, 1e-30)
        return float(np.degrees(np.arcsin(np.sqrt(min(1.0, squared)))))


def deflections(scan: Scan, chosen: np.ndarray) -> np.ndarray:
    """The centres of mass of patterns (y, x) [detector px], less their mean, float64 `[n, 2]`."""
    line = np.arange(scan.n) - scan.n // 2
    found = []
    for first in range(0, len(chosen), CHUNK):
        counts = np.where(scan.valid, np.nan_to_num(scan.counts(chosen[first : first + CHUNK])), 0)
        light = np.maximum(counts.sum((1, 2)), 1e-9)
        found.append(np.stack([(counts.sum(2) * line).sum(1) / light, (counts.sum(1) * line).sum(1) / light], axis=1))
    centres = np.concatenate(found).astype(np.float64)
    return centres - centres.mean(axis=0)


def relations(
    positions: np.ndarray, deflected: np.ndarray, chosen: np.ndarray, lags: tuple[int, ...]
) -> tuple[list[Relation], Relation]:
    """For each lag, the likeliest M of either determinant, the likeliest first; and the positions as given.

    `positions` `[N, 2]` of all patterns, `deflected` `[n, 2]` of those `chosen`. The unit of the positions is of
    no importance.
    """
    best: dict[tuple[int, int], Relation] = {}
    given = Relation(0, np.eye(2), -np.inf)
    step = neighbour_distance(positions[chosen])
    for lag in lags:
        for length in LENGTHS:
            values, vectors = np.linalg.eigh(covariance(positions[chosen + lag], length * step))
            for sign, noise in product((1, -1), NOISES):
                found, unturned = _likeliest(deflected, lag, sign, np.maximum(values, 0) + noise, vectors)
                known = best.get((lag, sign))
                if known is None or found.log_likelihood > known.log_likelihood:
                    best[lag, sign] = found
                if (lag, sign) == (0, 1) and unturned > given.log_likelihood:
                    given = replace(given, log_likelihood=unturned)
    return sorted(best.values(), key=lambda each: -each.log_likelihood), given


def _likeliest(
    deflected: np.ndarray, lag: int, sign: int, variances: np.ndarray, vectors: np.ndarray
) -> tuple[Relation, float]:
    """The likeliest angle for Mᵀ = R(θ)·diag(1, sign), the variance of the signal being the likeliest one; and the log
    likelihood without a rotation."""
    mirrored = deflected * (1.0, sign)
    parts = vectors.T @ np.stack([mirrored.ravel(), (mirrored @ QUARTER.T).ravel()], axis=1)
    products = parts.T @ (parts / variances[:, None])
    squares, directions = np.linalg.eigh(products)
    cos, sin = directions[:, 0]

    def log_likelihood(misfit: float) -> float:
        return -0.5 * float(len(variances) * np.log(max(misfit, 1e-300)) + np.log(variances).sum())

    matrix = np.diag([1.0, sign]) @ np.array([[cos, sin], [-sin, cos]])
    sharpness = squares[1] / max(squares[0], 1e-300) - 1
    found = Relation(lag, matrix, log_likelihood(squares[0]), sharpness, len(deflected))
    return found, log_likelihood(products[0, 0])


def covariance(places: np.ndarray, length: float) -> np.ndarray:
    """Of the gradient of ψ at `places` `[n, 2]`, in units of its variance: float64 `[2n, 2n]`."""
    apart = (places[:, None] - places) / length
    near = np.exp(-0.5 * np.square(apart).sum(-1))
    blocks = (np.eye(2) - apart[..., :, None] * apart[..., None, :]) * near[..., None, None]
    return blocks.transpose(0, 2, 1, 3).reshape(2 * len(places), 2 * len(places))
