"""From an object patch and a probe to the expected counts on a far-field detector.

The whole forward model is one line:

    intensity = detector_intensity(far_field(exit_wave(patches, probe)))
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Complex, Float
from torch import Tensor

PLANCK_TIMES_LIGHT_eV_m = 1.239841984e-6


def exit_wave(
    patches: Complex[Tensor, "*batch n n"], probe: Complex[Tensor, "*#batch mode n n"]
) -> Complex[Tensor, "*batch mode n n"]:
    """The wave behind the object, ψ_m(r) = P_m(r) · O(r), one for each incoherent mode.

    patches: complex `[..., N, N]`, transmission; probe: complex `[..., mode, N, N]`, √photons;
    returns `[..., mode, N, N]`, √photons. Source: the thin-object (projection) approximation.
    """
    return patches.unsqueeze(-3) * probe


def far_field(wave: Complex[Tensor, "*batch h w"]) -> Complex[Tensor, "*batch h w"]:
    """The wave on a distant detector: a centred, unitary Fourier transform of the last two axes.

    Ψ(k) = 1/√(N·N') Σ_r ψ(r) exp(−2πi k·r/N), both with index 0 of space and frequency at N//2, so Σ|Ψ|² = Σ|ψ|²
    (Parseval). For even squares the centring is a sign board, which costs a multiplication instead of two copies.
    """
    if is_even_square(wave):
        board = _board_like(wave)
        return board * torch.fft.fft2(board * wave, norm="ortho")
    shifted = torch.fft.ifftshift(wave, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=(-2, -1))


def inverse_far_field(wave: Complex[Tensor, "*batch h w"]) -> Complex[Tensor, "*batch h w"]:
    """The wave at the object that makes this wave on the detector: the inverse, and adjoint, of `far_field`."""
    if is_even_square(wave):
        board = _board_like(wave)
        return board * torch.fft.ifft2(board * wave, norm="ortho")
    shifted = torch.fft.ifftshift(wave, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=(-2, -1))


def detector_intensity(wave: Complex[Tensor, "*batch mode h w"]) -> Float[Tensor, "*batch h w"]:
    """The expected counts, I(k) = Σ_m |Ψ_m(k)|² [photons]: modes add incoherently. Sums axis −3."""
    return (wave.real.square() + wave.imag.square()).sum(-3)


def sign_board(height: int, width: int, *, device: torch.device | None = None) -> Float[Tensor, "{height} {width}"]:
    """The sign (−1)^(y+x), float `[height, width]`: multiplying a wave by it moves the zero of its spectrum to N//2."""
    return _board(height, width, device or torch.device("cpu"))


def is_even_square(wave: Complex[Tensor, "*batch h w"]) -> bool:
    """Whether the last two axes are equal and even, so that centring is a sign board."""
    return wave.shape[-1] == wave.shape[-2] and wave.shape[-1] % 2 == 0


@lru_cache(maxsize=32)
def _board(height: int, width: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept for a later training, too
        y = torch.arange(height, device=device)[:, None]
        x = torch.arange(width, device=device)[None, :]
        return (1 - 2 * ((y + x) % 2)).to(torch.float32)


def _board_like(wave: Tensor) -> Tensor:
    return sign_board(wave.shape[-2], wave.shape[-1], device=wave.device).to(wave.real.dtype)


def wavelength_of_photon_m(energy_eV: float) -> float:
    """Wavelength [m] of a photon of this energy [eV], λ = h·c/E."""
    return PLANCK_TIMES_LIGHT_eV_m / energy_eV


def object_pixel_size_m(wavelength_m: float, distance_m: float, n: int, detector_pixel_m: float) -> float:
    """Object pixel [m] of far-field sampling, λ·z / (N · detector pixel)."""
    return wavelength_m * distance_m / (n * detector_pixel_m)
