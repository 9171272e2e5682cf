"""From the exit wave to the detector and back: each propagation is a value with a forward and its adjoint.

Every propagator here is unitary, Σ|forward(ψ)|² = Σ|ψ|² (Parseval), so its adjoint is its inverse.

A sweep needs only the modulus of the detector wave, so phases that are fixed for each detector pixel may stay out of
it. `prepared`, `apply` and `apply_adjoint` are the same propagation in this cheaper form:

    |apply(O · prepared(P))| = |forward(O · P)|,   apply_adjoint = apply⁻¹,   prepared = prepared⁻¹, real,

and prepared(P)* · apply_adjoint(w · apply(O · prepared(P))) = P* · adjoint(w · forward(O · P)) for every real w.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Complex
from torch import Tensor

from ptycho_torch.physics.optics import far_field, inverse_far_field, is_even_square, sign_board


@runtime_checkable
class Propagator(Protocol):
    """A unitary propagation of waves, complex `[..., N, N]` in √photons, over the last two axes."""

    @property
    def shifts_with_phase_ramps(self) -> bool:
        """Whether a phase ramp on the exit wave moves its pattern rigidly over the detector: in the far field only."""

    def tilt_shift_px(self, n: int) -> float:
        """Shift of a pattern [detector px] for a tilt of the exit wave by one wave over its n pixels."""

    def forward(self, wave: Complex[Tensor, "*batch h w"]) -> Complex[Tensor, "*batch h w"]:
        """The wave on the detector."""

    def adjoint(self, wave: Complex[Tensor, "*batch h w"]) -> Complex[Tensor, "*batch h w"]:
        """The wave at the object that makes this wave on the detector: ⟨forward(ψ), φ⟩ = ⟨ψ, adjoint(φ)⟩."""

    def prepared(self, probe: Complex[Tensor, "*batch h w"]) -> Complex[Tensor, "*batch h w"]:
        """The probe `[..., N, N]` in the form that `apply` expects in the exit wave: times a sign for each pixel."""

    def apply(self, wave: Complex[Tensor, "*batch h w"]) -> Complex[Tensor, "*batch h w"]:
        """The detector wave of a prepared exit wave, up to a fixed phase of each detector pixel."""

    def apply_adjoint(self, wave: Complex[Tensor, "*batch h w"]) -> Complex[Tensor, "*batch h w"]:
        """Undoes `apply`."""


@dataclass(frozen=True)
class FarField:
    """Fraunhofer diffraction: a centred, unitary Fourier transform, zero frequency at index N//2.

    For even squares the centring is a sign board on either side: `prepared` holds the one at the object, where it is
    applied once per probe, and `apply` leaves the one on the detector out. Other sizes are rolled.
    """

    @property
    def shifts_with_phase_ramps(self) -> bool:
        return True

    def tilt_shift_px(self, n: int) -> float:
        """1."""
        return 1.0

    def forward(self, wave: Complex[Tensor, "*batch h w"]) -> Complex[Tensor, "*batch h w"]:
        """Ψ(k) = 1/N Σ_r ψ(r) exp(−2πi k·r/N), see `far_field`."""
        return far_field(wave)

    def adjoint(self, wave: Complex[Tensor, "*batch h w"]) -> Complex[Tensor, "*batch h w"]:
        """See `inverse_far_field`."""
        return inverse_far_field(wave)

    def prepared(self, probe: Complex[Tensor, "*batch h w"]) -> Complex[Tensor, "*batch h w"]:
        """P · (−1)^(y+x) for even squares."""
        if not is_even_square(probe):
            return probe
        return probe * sign_board(*probe.shape[-2:], device=probe.device)

    def apply(self, wave: Complex[Tensor, "*batch h w"]) -> Complex[Tensor, "*batch h w"]:
        """The discrete Fourier transform, unitary."""
        return torch.fft.fft2(wave, norm="ortho") if is_even_square(wave) else far_field(wave)

    def apply_adjoint(self, wave: Complex[Tensor, "*batch h w"]) -> Complex[Tensor, "*batch h w"]:
        """The inverse discrete Fourier transform, unitary."""
        return torch.fft.ifft2(wave, norm="ortho") if is_even_square(wave) else inverse_far_field(wave)


@dataclass(frozen=True)
class NearField:
    """Fresnel diffraction over a distance z, sampled with the object's own pixel p on the detector.

    Ψ = F⁻¹[ F[ψ] · exp(−iπ λz f²) ] = F⁻¹[ F[ψ] · exp(−iπ f_px² / Fr) ] with the Fresnel number of a pixel
    Fr = p²/(λz) and f_px in cycles per pixel, periodic over the window, valid for N·Fr ≥ 1; images in natural layout.
    A cone beam is the same with the effective distance z₁z₂/(z₁ + z₂) and the detector pixel over the magnification.
    Source: Goodman, Introduction to Fourier Optics, §4.2; Paganin, Coherent X-Ray Optics, §1.4.
    """

    fresnel_number: float

    @property
    def shifts_with_phase_ramps(self) -> bool:
        return False

    def tilt_shift_px(self, n: int) -> float:
        """1 / (N·Fr), away from the edges of the window."""
        return 1 / (n * self.fresnel_number)

    def forward(self, wave: Complex[Tensor, "*batch h w"]) -> Complex[Tensor, "*batch h w"]:
        """F⁻¹[F[ψ] · exp(−iπ f_px² / Fr)]."""
        return torch.fft.ifft2(torch.fft.fft2(wave) * self._kernel(wave))

    def adjoint(self, wave: Complex[Tensor, "*batch h w"]) -> Complex[Tensor, "*batch h w"]:
        """F⁻¹[F[φ] · exp(+iπ f_px² / Fr)]."""
        return torch.fft.ifft2(torch.fft.fft2(wave) * self._kernel(wave).conj())

    def prepared(self, probe: Complex[Tensor, "*batch h w"]) -> Complex[Tensor, "*batch h w"]:
        """The probe as it is."""
        return probe

    def apply(self, wave: Complex[Tensor, "*batch h w"]) -> Complex[Tensor, "*batch h w"]:
        """`forward`."""
        return self.forward(wave)

    def apply_adjoint(self, wave: Complex[Tensor, "*batch h w"]) -> Complex[Tensor, "*batch h w"]:
        """`adjoint`."""
        return self.adjoint(wave)

    def _kernel(self, wave: Tensor) -> Tensor:
        return _fresnel_kernel(self.fresnel_number, wave.shape[-2], wave.shape[-1], wave.dtype, wave.device)


FAR_FIELD = FarField()


def near_field(*, wavelength_m: float, distance_m: float, pixel_m: float) -> NearField:
    """Fresnel propagation over `distance_m` at this wavelength, with object pixels of `pixel_m`."""
    return NearField(pixel_m**2 / (wavelength_m * distance_m))


@lru_cache(maxsize=16)
def _fresnel_kernel(fresnel_number: float, height: int, width: int, kind: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept for a later training, too
        y = torch.fft.fftfreq(height, dtype=torch.float64, device=device)[:, None]
        x = torch.fft.fftfreq(width, dtype=torch.float64, device=device)[None, :]
        angle = -math.pi * (y.square() + x.square()) / fresnel_number
        return torch.polar(torch.ones_like(angle), angle).to(kind)
