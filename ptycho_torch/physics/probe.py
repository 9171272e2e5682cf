"""The probe: its power, sub-pixel shifts, modes, and a first estimate."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from ptycho_torch.physics.propagation import FAR_FIELD, Propagator


def probe_power(probe: Complex[Tensor, "mode n n"]) -> Float[Tensor, ""]:
    """Photons on a fully transparent object, Σ_m Σ_r |P_m(r)|²; probe complex `[mode, N, N]` in √photons."""
    return probe.real.square().sum() + probe.imag.square().sum()


def illumination(probe: Complex[Tensor, "*batch mode n n"]) -> Float[Tensor, "*batch n n"]:
    """Photons on each probe pixel, Σ_m |P_m(r)|²: `[..., mode, N, N]` → `[..., N, N]`."""
    return (probe.real.square() + probe.imag.square()).sum(-3)


def probe_radius(probe: Complex[Tensor, "mode n n"]) -> float:
    """Root-mean-square radius of the illumination [px]: r² = Σ I |r − ⟨r⟩|² / Σ I."""
    light = illumination(probe).double()
    light = light / light.sum()
    variance = 0.0
    for profile in (light.sum(0), light.sum(1)):
        line = torch.arange(len(profile), dtype=profile.dtype, device=profile.device)
        variance += float((profile * line.square()).sum() - (profile * line).sum().square())
    return math.sqrt(max(variance, 0.0))


def shift_probe(probe: Complex[Tensor, "mode n n"], fraction: Float[Tensor, "b 2"]) -> Complex[Tensor, "b mode n n"]:
    """The probe moved by a fraction of a pixel for each pattern: `[mode, N, N]`, `[b, 2]` → `[b, mode, N, N]`.

    P(r − f) = F⁻¹[ F[P](k) · exp(−2πi k·f/N) ], exact for a band-limited probe that is dark at the array's rim;
    the object stays on its own pixels, so it is not interpolated. The Nyquist row of an even size is moved by
    cos(π f), its real part, so that shifts of real arrays stay real.
    """
    if not bool(fraction.any()):
        return probe.expand(len(fraction), -1, -1, -1)
    return torch.fft.ifft2(torch.fft.fft2(probe) * _shift_factors(fraction, probe))


def gather_shifted(waves: Complex[Tensor, "b mode n n"], fraction: Float[Tensor, "b 2"]) -> Complex[Tensor, "mode n n"]:
    """The sum over patterns of waves moved back, `[b, mode, N, N]`, `[b, 2]` → `[mode, N, N]`: `shift_probe`'s adjoint.

    ⟨shift_probe(P, f), W⟩ = ⟨P, gather_shifted(W, f)⟩ for every P and W.
    """
    if not bool(fraction.any()):
        return waves.sum(0)
    spectra = torch.fft.fft2(waves) * _shift_factors(fraction, waves).conj()
    return torch.fft.ifft2(spectra.sum(0))


def orthogonal_modes(probe: Complex[Tensor, "mode n n"]) -> Complex[Tensor, "mode mode"]:
    """The unitary `[mode, mode]` that turns modes into orthogonal ones, strongest first: `unitary @ modes`.

    Incoherent modes are defined up to a unitary mixture, |F P|² summed over them stays as it is. Source: the
    eigenvectors of their overlap matrix ⟨P_m, P_k⟩ (Odstrcil et al. 2016).
    """
    flat = probe.flatten(1)
    overlaps = flat @ flat.conj().mT
    _, vectors = torch.linalg.eigh(overlaps)
    return vectors.flip(1).conj().mT


def with_more_modes(
    probe: Complex[Tensor, "mode n n"], count: int, *, power: float = 0.05
) -> Complex[Tensor, "{max(count,len(probe))} n n"]:
    """The probe with modes added up to `count`: its first one times x, y, x², xy, …, orthogonal, of `power` each.

    `power` is a fraction of the total, which is kept. Existing modes come first.
    """
    n, missing = probe.shape[-1], count - len(probe)
    if missing <= 0:
        return probe
    line = (torch.arange(n, device=probe.device) - n // 2) / (n / 4)
    orders = [(total - order, order) for total in range(1, 2 + count) for order in range(total + 1)]
    family = torch.stack([probe[0] * line[None, :] ** i * line[:, None] ** j for i, j in orders[: missing + 2]])
    basis, _ = torch.linalg.qr(torch.cat([probe, family]).flatten(1).mT)
    total = probe_power(probe)
    new = basis.mT[len(probe) : count].unflatten(1, (n, n)) * (power * total).sqrt()
    return torch.cat([probe * (1 - power * missing) ** 0.5, new])


def _shift_factors(fraction: Tensor, like: Tensor) -> Tensor:
    height, width = like.shape[-2:]
    rows = _shift_factor(fraction[:, 0], height, like.real.dtype, like.device)[:, None, :, None]
    columns = _shift_factor(fraction[:, 1], width, like.real.dtype, like.device)[:, None, None, :]
    return rows * columns


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


def guess_probe(
    mean_counts: Float[Tensor, "n n"], *, width: float = 0.0, propagator: Propagator = FAR_FIELD
) -> Complex[Tensor, "1 n n"]:
    """A first estimate of the probe, complex64 `[1, N, N]`: the wave √⟨I⟩ on the detector, from the mean pattern,
    propagated back.

    In the near field √⟨I⟩ approximates the amplitude of the empty beam on the detector, since the object averages out.
    In the far field it is the aperture, and the probe may be out of focus: P = F⁻¹[√⟨I⟩·exp(i c f²)], f in cycles/px, c
    = π·width·N/(2 f_a), f_a² = 2⟨f²⟩ the radius of a disk with the mean pattern's second moment: the probe is about
    width·N px wide, 0 is the sharpest spot that the mean pattern allows. The probe's power is the mean number of
    photons per pattern. See `search_probe` for the search of the width.
    """
    amplitude = mean_counts.clamp_min(0).sqrt()
    n = mean_counts.shape[-1]
    line = (torch.arange(n, device=mean_counts.device) - n // 2) / n
    squared = line[:, None].square() + line[None, :].square()
    radius = (2 * (mean_counts * squared).sum() / mean_counts.sum()).sqrt()
    phase = math.pi * width * n / (2 * radius) * squared
    return propagator.adjoint(torch.polar(amplitude, phase.to(amplitude.dtype))).unsqueeze(0)


def circular_mask(n: int, *, diameter: float, sigma: float) -> Float[Tensor, "{n} {n}"]:
    """A disk of `diameter` px around index N//2, 1 inside and 0 outside, its edge `sigma` px soft: float32 `[n, n]`."""
    reach = torch.arange(n, dtype=torch.float32) - n // 2
    radius = torch.hypot(reach[:, None], reach[None, :])
    edge = (diameter / 2 - radius) / max(sigma, 1e-6)
    return 0.5 * (1 + torch.erf(edge / 2**0.5))


def masked_probe(probe: Complex[Tensor, "mode n n"], *, diameter: float, sigma: float) -> Complex[Tensor, "mode n n"]:
    """The probe `[mode, N, N]` cut to a soft disk around its centre."""
    return probe * circular_mask(probe.shape[-1], diameter=diameter, sigma=sigma).to(probe.real.dtype)
