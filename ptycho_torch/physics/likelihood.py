"""How well predicted counts explain measured ones; pixels that were not measured do not speak."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor


def poisson_nll(
    predicted: Float[Tensor, "*batch n n"], counts: Float[Tensor, "*batch n n"], valid: Bool[Tensor, "*#batch n n"]
) -> Float[Tensor, ""]:
    """Mean Poisson negative log-likelihood per valid pixel, relative to a perfect fit (half the Poisson deviance).

    L = ⟨ λ − n + n·ln(n/λ) ⟩ with predicted counts λ and measured counts n [photons]; zero where λ = n, least there.
    `[..., N, N]`, valid bool `[N, N]`. λ is kept above 1e-6 photons, so that a count where none was expected costs
    much but not everything.
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


LIKELIHOODS = {"poisson": poisson_nll, "mae": amplitude_error}


def _mean_over_valid(values: Tensor, valid: Tensor) -> Tensor:
    patterns = values.numel() // (valid.shape[-2] * valid.shape[-1])
    return torch.where(valid, values, values.new_zeros(())).sum() / (patterns * valid.sum().clamp_min(1))


def misfit(
    predicted: Float[Tensor, "b n n"], counts: Float[Tensor, "b n n"], valid: Bool[Tensor, "... n n"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """For each pattern Σ(√λ − √n)² and Σ n over valid pixels, `[b]` each: R = √(Σ first / Σ second)."""
    difference = (predicted.clamp_min(0).sqrt() - counts.sqrt()).square()
    return (difference * valid).sum((-2, -1)), (counts * valid).sum((-2, -1))
