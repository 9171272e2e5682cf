"""Acceleration of slow phase waves: they converge as fast as fine detail.

A phase wave of wave number q that is longer than the probe only tilts the exit wave: it moves the diffraction pattern,
and changes its amplitude by (q·a)², where a is the width of the sharpest spot that the pattern's amplitude can make.
A fine detail changes it by about 1/2. Steepest descent therefore finds the slow waves 1/(q·a)² times more slowly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ptycho_torch.physics.optics import detector_intensity, far_field, inverse_far_field

LARGEST = 10.0
"""The slowest waves are accelerated by at most this factor."""
WIDEN = 1.5
"""The wave number of equal visibility is taken this much lower than for a flat object."""


def spot_width_px(probe: Tensor) -> float:
    """Root-mean-square width a [px, one axis] of the spot F⁻¹|Ψ| that the flat object's diffraction amplitude makes.

    a² = Σ r²|s(r)|² / (2 Σ|s(r)|²) = ⟨|∂|Ψ|/∂k|²⟩: how strongly a tilt of the exit wave changes the amplitude.
    """
    amplitude = detector_intensity(far_field(probe)).sqrt()
    spot = inverse_far_field(amplitude.to(probe.dtype)).abs().square()
    reach = torch.arange(spot.shape[-1], device=spot.device) - spot.shape[-1] // 2
    radius_squared = (reach[:, None].square() + reach[None, :].square()).to(spot.dtype)
    return math.sqrt(float((radius_squared * spot).sum() / (2 * spot.sum())))


def slow_phase_acceleration(probe: Tensor, shape: tuple[int, int]) -> Tensor:
    """The factor F(q) − 1 by which slow phase waves are accelerated, for the half-spectrum of a canvas, `[H, W//2+1]`.

    1/F = q²/(q² + q_c²) + 1/10, the visibility above bounded from below; q_c² = 1/(2 a²) is where both kinds are
    equal. F → 1/1.1 at fine detail is left at 1.
    """
    cut = 1 / (math.sqrt(2) * spot_width_px(probe) * WIDEN)
    y = 2 * math.pi * torch.fft.fftfreq(shape[0], device=probe.device)
    x = 2 * math.pi * torch.fft.rfftfreq(shape[1], device=probe.device)
    squared = y[:, None].square() + x[None, :].square()
    return (1 / (squared / (squared + cut**2) + 1 / LARGEST) - 1).clamp_min(0)


def accelerate_slow_phase(direction: Tensor, obj: Tensor, acceleration: Tensor) -> Tensor:
    """A descent direction whose slow phase part is accelerated: d + i·O·F⁻¹[(F − 1)·F[δ]], δ = Im(O*·d)/(|O|² + 0.05).

    What d does to the amplitude of O, and fine detail, stay as they are.
    """
    phase = (obj.conj() * direction).imag / (obj.real.square() + obj.imag.square() + 0.05)
    slow = torch.fft.irfft2(acceleration * torch.fft.rfft2(phase), s=phase.shape)
    return direction + torch.complex(-slow * obj.imag, slow * obj.real)
