"""Likelihoods of measured counts, given predicted ones, over the valid pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor


@runtime_checkable
class Likelihood(Protocol):
    """The interface of a likelihood of the counts: any object with these two methods."""

    def step(
        self,
        intensity: Float[Tensor, "b n n"],
        amplitude: Float[Tensor, "b n n"],
        valid: Bool[Tensor, "*#b n n"],
        *,
        softening: Float[Tensor, "b 1 1"],
        background: float,
    ) -> Float[Tensor, "b n n"]:
        """The weights w `[b, N, N]` of the exit-wave correction, adjoint[w Ψ], which is minus the gradient of L:
        w = −2 ∂L/∂I, with L scaled so that it is ½ Σ (√I − √n)² near the best fit.

        intensity: predicted I + s [photons] `[b, N, N]`, with the `softening` s `[b, 1, 1]` that keeps a dark pixel's
        step finite; amplitude: measured √n, 0 where it is not valid; valid: bool `[N, N]` or `[b, N, N]`. What is not
        valid is left out afterwards. `background` β [photons] bounds the steps of dark pixels in early sweeps; a
        likelihood may ignore it.
        """

    def value(
        self, predicted: Float[Tensor, "b n n"], amplitude: Float[Tensor, "b n n"], valid: Bool[Tensor, "*#b n n"]
    ) -> Float[Tensor, " b"]:
        """The misfit of each pattern per valid pixel, `[b]`, lower is better; predicted: expected counts."""


@dataclass(frozen=True)
class Poisson:
    """Counts with photon noise: L = ¼ Σ (I − n ln I)."""

    def step(
        self,
        intensity: Float[Tensor, "b n n"],
        amplitude: Float[Tensor, "b n n"],
        valid: Bool[Tensor, "*#b n n"],
        *,
        softening: Float[Tensor, "b 1 1"],
        background: float,
    ) -> Float[Tensor, "b n n"]:
        """w = ½ ((n + s + β) / (I + s + β) − 1)."""
        return ((amplitude.square() + (softening + background)) / (intensity + background)).sub_(1).mul_(0.5)

    def value(
        self, predicted: Float[Tensor, "b n n"], amplitude: Float[Tensor, "b n n"], valid: Bool[Tensor, "*#b n n"]
    ) -> Float[Tensor, " b"]:
        """`poisson_nll` of each pattern."""
        return poisson_nll_each(predicted, amplitude.square(), valid)


@dataclass(frozen=True)
class Amplitude:
    """Amplitudes with the same Gaussian noise everywhere: L = ½ Σ (√I − √n)²."""

    def step(
        self,
        intensity: Float[Tensor, "b n n"],
        amplitude: Float[Tensor, "b n n"],
        valid: Bool[Tensor, "*#b n n"],
        *,
        softening: Float[Tensor, "b 1 1"],
        background: float,
    ) -> Float[Tensor, "b n n"]:
        """w = √n / √(I + s) − 1."""
        return (amplitude * intensity.rsqrt()).sub_(1)

    def value(
        self, predicted: Float[Tensor, "b n n"], amplitude: Float[Tensor, "b n n"], valid: Bool[Tensor, "*#b n n"]
    ) -> Float[Tensor, " b"]:
        """½ ⟨(√I − √n)²⟩ over the valid pixels of each pattern."""
        errors = (predicted.sqrt() - amplitude).square() * valid
        return 0.5 * errors.sum((-2, -1)) / valid.sum((-2, -1))


LIKELIHOODS: dict[str, Likelihood] = {"poisson": Poisson(), "amplitude": Amplitude()}


def as_likelihood(likelihood: str | Likelihood) -> Likelihood:
    """A likelihood of this name, or the one that is given; ValueError for a name that is not known."""
    if not isinstance(likelihood, str):
        return likelihood
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"likelihood {likelihood!r} is unknown; {', '.join(LIKELIHOODS)} or an object is needed")
    return LIKELIHOODS[likelihood]


def poisson_nll(
    predicted: Float[Tensor, "*batch n n"], counts: Float[Tensor, "*batch n n"], valid: Bool[Tensor, "*#batch n n"]
) -> Float[Tensor, ""]:
    """Mean Poisson negative log-likelihood per valid pixel, relative to a perfect fit (half the Poisson deviance).

    L = ⟨ λ − n + n·ln(n/λ) ⟩ with predicted counts λ and measured counts n [photons]; zero where λ = n, least there.
    `[..., N, N]`, valid bool `[N, N]`. λ is kept above 1e-6 photons, so that a count where none is expected has a
    large but finite cost.
    """
    floor = predicted.clamp_min(1e-6)
    loss = floor - counts + torch.xlogy(counts, counts.clamp_min(1e-6) / floor)
    return _mean_over_valid(loss, valid)


def poisson_nll_each(
    predicted: Float[Tensor, "b n n"], counts: Float[Tensor, "b n n"], valid: Bool[Tensor, "*#b n n"]
) -> Float[Tensor, " b"]:
    """`poisson_nll` of each pattern, `[b]`; valid bool `[N, N]` or `[b, N, N]`."""
    masks = valid.expand(counts.shape)
    return torch.stack([poisson_nll(*one) for one in zip(predicted, counts, masks, strict=True)])


def amplitude_error(
    predicted: Float[Tensor, "*batch n n"], counts: Float[Tensor, "*batch n n"], valid: Bool[Tensor, "*#batch n n"]
) -> Float[Tensor, ""]:
    """Mean absolute error of the amplitude, ⟨|√λ − √n|⟩ [√photons] (`mae`)."""
    return _mean_over_valid((predicted.clamp_min(1e-12).sqrt() - counts.sqrt()).abs(), valid)


def total_variation(obj: Complex[Tensor, "H W"]) -> Float[Tensor, ""]:
    """Mean isotropic total variation of a complex object, ⟨√(|∂_y O|² + |∂_x O|²)⟩: small where flat."""
    down = obj[1:, :-1] - obj[:-1, :-1]
    right = obj[:-1, 1:] - obj[:-1, :-1]
    squares = down.real.square() + down.imag.square() + right.real.square() + right.imag.square()
    return (squares + 1e-12).sqrt().mean()


LOSSES = {"poisson": poisson_nll, "mae": amplitude_error}


def _mean_over_valid(values: Tensor, valid: Tensor) -> Tensor:
    patterns = values.numel() // (valid.shape[-2] * valid.shape[-1])
    return torch.where(valid, values, values.new_zeros(())).sum() / (patterns * valid.sum().clamp_min(1))


def misfit(
    predicted: Float[Tensor, "b n n"], counts: Float[Tensor, "b n n"], valid: Bool[Tensor, "... n n"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """For each pattern Σ(√λ − √n)² and Σ n over valid pixels, `[b]` each: R = √(Σ first / Σ second)."""
    difference = (predicted.clamp_min(0).sqrt() - counts.sqrt()).square()
    return (difference * valid).sum((-2, -1)), (counts * valid).sum((-2, -1))
