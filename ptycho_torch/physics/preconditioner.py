"""A preconditioner that makes slow phase variations converge as fast as fine detail.

A phase variation of wave number q that is longer than the probe only tilts the exit wave: it moves the diffraction
pattern, and changes its amplitude by (q·a)², where a is the width of the sharpest spot that the pattern's amplitude can
make. A fine detail changes it by about 1/2. Steepest descent therefore recovers slow variations 1/(q·a)² times more
slowly. In the near field a tilt moves the pattern by 1/(N·Fr) times as many pixels, and a is that much wider.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from ptycho_torch.physics.optics import detector_intensity, inverse_far_field
from ptycho_torch.physics.propagation import FAR_FIELD, Propagator

LARGEST = 10.0
"""Largest factor of the acceleration."""
DARK_OBJECT = 0.05
"""Fraction of the usual |O|² below which the phase of a pixel is damped."""
WIDEN = 1.5
"""The wave number of equal visibility is lowered by this factor against that of a flat object."""


def spot_width_px(probe: Complex[Tensor, "mode n n"], propagator: Propagator = FAR_FIELD) -> float:
    """Root-mean-square width a [px, one axis] of the spot F⁻¹|Ψ| that the flat object's diffraction amplitude makes.

    a² = Σ r²|s(r)|² / (2 Σ|s(r)|²) = ⟨|∂|Ψ|/∂k|²⟩: how strongly a tilt of the exit wave changes the amplitude. In the
    near field the same tilt moves the pattern by 1/(N·Fr) times as many pixels, and a is that much wider.
    """
    amplitude = detector_intensity(propagator.forward(probe)).sqrt()
    spot = inverse_far_field(amplitude.to(probe.dtype)).abs().square()
    reach = torch.arange(spot.shape[-1], device=spot.device) - spot.shape[-1] // 2
    radius_squared = (reach[:, None].square() + reach[None, :].square()).to(spot.dtype)
    width = math.sqrt(float((radius_squared * spot).sum() / (2 * spot.sum())))
    return propagator.tilt_shift_px(probe.shape[-1]) * width


class Acceleration(NamedTuple):
    """The acceleration of slow phase variations."""

    gain: Float[Tensor, "H W//2+1"]  # F(q) − 1, for the half-spectrum of a canvas
    unit: float  # the object's usual amplitude


def slow_phase_acceleration(
    probe: Complex[Tensor, "mode n n"], shape: tuple[int, int], *, unit: float = 1.0, propagator: Propagator = FAR_FIELD
) -> Acceleration:
    """The factor F(q) by which slow phase variations are accelerated on a canvas of `shape`.

    1/F = q²/(q² + q_c²) + 1/10, the visibility above bounded from below; q_c² = 1/(2 a²) is where both kinds are
    equal. At fine detail F → 1/1.1 is set to 1.
    """
    cut = 1 / (math.sqrt(2) * spot_width_px(probe, propagator) * WIDEN)
    y = 2 * math.pi * torch.fft.fftfreq(shape[0], device=probe.device)
    x = 2 * math.pi * torch.fft.rfftfreq(shape[1], device=probe.device)
    squared = y[:, None].square() + x[None, :].square()
    return Acceleration((1 / (squared / (squared + cut**2) + 1 / LARGEST) - 1).clamp_min(0), unit)


def accelerate_slow_phase(
    direction: Complex[Tensor, "H W"], obj: Complex[Tensor, "H W"], acceleration: Acceleration
) -> Complex[Tensor, "H W"]:
    """A descent direction with its slow phase accelerated: d + i·O·F⁻¹[(F − 1)·F[δ]], δ = Im(O*·d)/(|O|² + 0.05 u²).

    The amplitude of O and fine detail are not changed; the `unit` u is the object's usual amplitude.
    """
    dark = DARK_OBJECT * acceleration.unit**2
    phase = (obj.conj() * direction).imag / (obj.real.square() + obj.imag.square() + dark)
    slow = torch.fft.irfft2(acceleration.gain * torch.fft.rfft2(phase), s=phase.shape)
    return direction + torch.complex(-slow * obj.imag, slow * obj.real)
