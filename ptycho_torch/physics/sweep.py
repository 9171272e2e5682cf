"""One physics sweep: propagate, replace the modulus by the measured one, add the correction to the object.

This is the inner loop of every reconstruction here. It fuses the textbook line

    Ψ = forward(exit_wave(extract(O), P))
    g = Σ_j place( conj(P_j) · adjoint( Ψ_j · (√n_j / |Ψ_j| − 1) ) ),   |Ψ|² = Σ_m |Ψ_m|²

with its derivative, which is the same kind of sweep, so that training keeps only one wave per pattern.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Complex, Float, Int64
from torch import Tensor

from ptycho_torch.physics.likelihood import Likelihood, as_likelihood
from ptycho_torch.physics.patches import extract_whole, place_whole
from ptycho_torch.physics.phase_gradient import shift_sums
from ptycho_torch.physics.propagation import FAR_FIELD, Propagator

LEAST_MEAN = 1e-30
"""Photons; the inverse square does not overflow."""
SOFTENING = 1e-4
"""Below this fraction of a pattern's mean, |Ψ|² softens the modulus step: a dark pixel has no phase."""


def likelihood_gradient(
    obj: Complex[Tensor, "H W"],
    probe: Complex[Tensor, "#b mode n n"],
    corners: Int64[Tensor, "b 2"],
    amplitude: Float[Tensor, "b n n"],
    valid: Bool[Tensor, "... n n"],
    *,
    propagator: Propagator = FAR_FIELD,
    background: Float[Tensor, ""] | None = None,
    shifts: list[Tensor] | None = None,
) -> Complex[Tensor, "H W"]:
    """The steepest-descent direction of a likelihood of the counts on the object canvas, complex `[H, W]`.

    That of the amplitudes, ½ Σ (√n − |Ψ|)²; with a `background` b that of Poisson, ¼ Σ (I − (n + β) ln(I + β)), where β
    is b (scalar) times the pattern's mean count: see `exit_wave_correction`. obj `[H, W]`; probe `[b or 1, mode, N,
    N]`; corners int64 `[b, 2]` of the patches, all inside the canvas; amplitude √n `[b, N, N]`, in the unit of the
    probe times the object; valid bool `[N, N]`: elsewhere the predicted wave is kept. The `shift_sums` of the patterns
    are appended to the list `shifts`. Source: Gerchberg & Saxton 1972; Maiden & Rodenburg 2009 (ePIE's batch form);
    Thibault & Guizar-Sicairos 2012.
    """
    return _LikelihoodGradient.apply(obj, probe, corners, amplitude, valid, propagator, background, shifts)


class _LikelihoodGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        obj: Tensor,
        probe: Tensor,
        corners: Tensor,
        amplitude: Tensor,
        valid: Tensor,
        propagator: Propagator,
        background: Tensor | None,
        shifts: list[Tensor] | None,
    ) -> Tensor:
        prepared = propagator.prepared(probe)
        wave = propagator.apply(prepared * extract_whole(obj, corners, probe.shape[-1]).unsqueeze(1))
        valid = valid.to(amplitude.dtype)
        mean = _mean_counts(amplitude)
        dark = mean.mul_(SOFTENING if background is None else SOFTENING + background)
        power = _power(wave, plus=dark)
        if shifts is not None:
            shifts.append(shift_sums(power.sqrt(), amplitude, valid))
        inverse = power.rsqrt_() if background is None else power.reciprocal_()
        ratio = amplitude * inverse if background is None else torch.addcmul(dark, amplitude, amplitude).mul_(inverse)
        step = _step(ratio, valid, background)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(wave, prepared, corners, amplitude, inverse, valid, dark)
            ctx.shape, ctx.background, ctx.propagator = tuple(obj.shape), background, propagator
            correction = wave * step.unsqueeze(1)
        else:
            correction = wave.mul_(step.unsqueeze(1))
        return _lay_back(propagator.apply_adjoint(correction), prepared, corners, (obj.shape[0], obj.shape[1]))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None, None, None, None]:
        wave, prepared, corners, amplitude, inverse, valid, dark = ctx.saved_tensors
        patches = extract_whole(gradient.contiguous(), corners, prepared.shape[-1]).unsqueeze(1)
        change = ctx.propagator.apply(prepared * patches)
        along = _over_modes(wave.real * change.real + wave.imag * change.imag)
        if ctx.background is None:
            ratio = amplitude * inverse
            bend = (ratio * inverse.square()).mul_(along).mul_(valid)
        else:
            ratio = torch.addcmul(dark, amplitude, amplitude).mul_(inverse)
            bend = (ratio * inverse).mul_(along).mul_(valid)
        step = _step(ratio, valid, ctx.background)
        back = change.mul_(step.unsqueeze(1)).sub_(wave * bend.unsqueeze(1))
        back = ctx.propagator.apply_adjoint(back)
        return _lay_back(back, prepared, corners, ctx.shape), None, None, None, None, None, None, None


def _step(ratio: Tensor, valid: Tensor, background: Tensor | None) -> Tensor:
    """√n/√I − 1, or ½((n + β)/(I + β) − 1), from the ratio; it may be overwritten."""
    step = ratio.sub_(1).mul_(valid)
    return step if background is None else step.mul_(0.5)


def exit_wave_correction(
    probe: Complex[Tensor, "#b mode n n"],
    patches: Complex[Tensor, "b n n"],
    amplitude: Float[Tensor, "b n n"],
    valid: Bool[Tensor, "... n n"],
    *,
    propagator: Propagator = FAR_FIELD,
    likelihood: str | Likelihood = "poisson",
    background: float = 0.0,
    shifts: list[Tensor] | None = None,
    least: Float[Tensor, "b n n"] | None = None,
) -> tuple[Complex[Tensor, "b mode n n"], Float[Tensor, " b"]]:
    """The correction of each exit wave, χ_m = adjoint[Ψ_m·w], and each pattern's intensity Σ_valid I.

    w is the `Likelihood`'s step: √n/√I − 1 for `amplitude`, ½Σ(√n − √I)², ½((n + β)/(I + β) − 1) for `poisson`, ¼Σ(I −
    n ln I), which the first approaches for bright pixels; χ is minus the gradient (dark pixels are softened). A
    `background` β > 0 [photons] bounds the step in dark pixels and leaves the estimate unbiased, but less efficient.
    A saturated pixel had √n = `least` `[b, N, N]` at least (0 elsewhere): it counts as that where less is predicted and
    is left out where more is. probe `[b or 1, mode, N, N]`; patches `[b, N, N]`; amplitude √n `[b, N, N]`; returns χ
    `[b, mode, N, N]`. Source: Thibault & Guizar-Sicairos 2012.
    """
    wave = propagator.apply(propagator.prepared(probe) * patches.unsqueeze(1))
    mean = _mean_counts(amplitude)
    seen = valid.to(amplitude.dtype)
    softening = mean * SOFTENING
    power = _power(wave, plus=softening)
    if shifts is not None:
        shifts.append(shift_sums(power.sqrt(), amplitude, seen))
    photons = (power * seen).sum((-2, -1))
    if least is not None:
        amplitude = torch.where(least > 0, least, amplitude)
        seen = torch.where((least > 0) & (power < least.square()), 1.0, seen)
    step = as_likelihood(likelihood).step(power, amplitude, valid, softening=softening, background=background)
    return propagator.prepared(propagator.apply_adjoint(wave.mul_((step * seen).unsqueeze(1)))), photons


def _mean_counts(amplitude: Tensor) -> Tensor:
    """The mean count of each pattern `[b, 1, 1]`, never zero: a pattern without a photon is a measurement, too."""
    total = torch.linalg.vector_norm(amplitude, dim=(-2, -1), keepdim=True).square_()
    return (total / amplitude[0].numel()).clamp_min_(LEAST_MEAN)


def _over_modes(values: Tensor) -> Tensor:
    return values.squeeze(1) if values.shape[1] == 1 else values.sum(1)


def _power(wave: Tensor, *, plus: Tensor) -> Tensor:
    for mode in wave.unbind(1):
        plus = torch.addcmul(plus, mode.real, mode.real).addcmul_(mode.imag, mode.imag)
    return plus


def _lay_back(wave: Tensor, prepared: Tensor, corners: Tensor, shape: tuple[int, int]) -> Tensor:
    return place_whole(_over_modes(wave.mul_(prepared.conj())), corners, shape)
