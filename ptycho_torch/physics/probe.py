"""The illumination: its power, its sub-pixel moves, its modes, and a first guess of it."""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_torch.physics.optics import inverse_far_field


def probe_power(probe: Tensor) -> Tensor:
    """Photons on a fully transparent object, Σ_m Σ_r |P_m(r)|²; probe complex `[mode, N, N]` in √photons."""
    return probe.real.square().sum() + probe.imag.square().sum()


def illumination(probe: Tensor) -> Tensor:
    """Photons on each probe pixel, Σ_m |P_m(r)|²: `[..., mode, N, N]` → `[..., N, N]`."""
    return (probe.real.square() + probe.imag.square()).sum(-3)


def shift_probe(probe: Tensor, fraction: Tensor) -> Tensor:
    """The probe moved by a fraction of a pixel for each pattern: `[mode, N, N]`, `[b, 2]` → `[b, mode, N, N]`.

    P(r − f) = F⁻¹[ F[P](k) · exp(−2πi k·f/N) ], exact for a band-limited probe that is dark at the array's rim;
    the object stays on its own pixels, so nothing of it is blurred. The Nyquist row of an even size is moved by
    cos(π f), its real part, so that shifts of real arrays stay real.
    """
    if not bool(fraction.any()):
        return probe.expand(len(fraction), -1, -1, -1)
    height, width = probe.shape[-2:]
    real = probe.real.dtype
    rows = _shift_factor(fraction[:, 0], height, real, probe.device)[:, None, :, None]
    columns = _shift_factor(fraction[:, 1], width, real, probe.device)[:, None, None, :]
    return torch.fft.ifft2(torch.fft.fft2(probe) * (rows * columns))


def _shift_factor(fraction: Tensor, n: int, real: torch.dtype, device: torch.device) -> Tensor:
    angle = (
        -2
        * torch.pi
        * fraction.to(device, torch.float64)[:, None]
        * torch.fft.fftfreq(n, dtype=torch.float64, device=device)
    )
    if n % 2 == 0:
        factor = torch.polar(torch.ones_like(angle), angle)
        factor[:, n // 2] = torch.cos(angle[:, n // 2]).to(factor.dtype)
    else:
        factor = torch.polar(torch.ones_like(angle), angle)
    return factor.to(torch.complex64 if real == torch.float32 else torch.complex128)


def guess_probe(mean_counts: Tensor) -> Tensor:
    """A first probe, complex64 `[1, N, N]`, from the mean pattern: its amplitude √⟨I⟩ focused on the object.

    P = F⁻¹[√⟨I⟩], the sharpest spot that the mean pattern allows (flat phase on the detector); its power is the mean
    number of photons a pattern. A defocused or aberrated instrument needs a refinement of it.
    """
    amplitude = mean_counts.clamp_min(0).sqrt()
    return inverse_far_field(amplitude.to(torch.complex64)).unsqueeze(0)


def circular_mask(n: int, *, diameter: float, sigma: float) -> Tensor:
    """A disk of `diameter` px around index N//2, 1 inside and 0 outside, its edge `sigma` px soft: float32 `[n, n]`."""
    reach = torch.arange(n, dtype=torch.float32) - n // 2
    radius = torch.hypot(reach[:, None], reach[None, :])
    edge = (diameter / 2 - radius) / max(sigma, 1e-6)
    return 0.5 * (1 + torch.erf(edge / 2**0.5))


def masked_probe(probe: Tensor, *, diameter: float, sigma: float) -> Tensor:
    """The probe `[mode, N, N]` cut to a soft disk around its centre."""
    return probe * circular_mask(probe.shape[-1], diameter=diameter, sigma=sigma).to(probe.real.dtype)
