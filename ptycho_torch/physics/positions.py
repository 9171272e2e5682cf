"""Estimates of the position of a pattern, from its counts and the object."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Complex, Float, Int64
from torch import Tensor

from ptycho_torch.physics.optics import detector_intensity, exit_wave
from ptycho_torch.physics.patches import extract_whole
from ptycho_torch.physics.propagation import FAR_FIELD, Propagator

DIM = 0.1
"""This fraction of a pattern's mean count is added to its intensity: it bounds the weight of dark pixels."""


def position_step(
    probe: Complex[Tensor, "#b mode n n"],
    patches: Complex[Tensor, "b n n"],
    amplitude: Float[Tensor, "b n n"],
    valid: Bool[Tensor, "... n n"],
    *,
    propagator: Propagator = FAR_FIELD,
) -> Float[Tensor, "b 2"]:
    """The Gauss–Newton move of each position (y, x) [px], `[b, 2]`, by the Poisson likelihood of its pattern.

    δ = H⁻¹ Σ J (n − I) / 2√Ĩ, H = Σ J Jᵀ, J = Re Σ_m Ψ_m* F[−∂P_m·O] / √Ĩ, Ĩ = I + s·⟨n⟩, over measured pixels, F the
    propagation. It is linear in the counts, so its mean over photon noise is zero at the true position; with √n − √I in
    the place of (n − I) / 2√Ĩ it would be biased at low counts. probe `[b, mode, N, N]`, patches `[b, N, N]`,
    amplitude √n `[b, N, N]`. (The same in exit waves is several times too short: most of what a move does to a wave is
    phase on the detector.) Source: Guizar-Sicairos & Fienup 2008; Odstrčil et al. 2018.
    """
    wave = propagator.forward(exit_wave(patches, probe))
    intensity, counts = detector_intensity(wave), amplitude.square() * valid
    root = (intensity + DIM * counts.mean((-2, -1), keepdim=True)).sqrt().clamp_min(1e-12)
    columns = []
    for slope in _slopes(probe):
        change = propagator.forward(exit_wave(patches, slope))
        columns.append(-(wave.conj() * change).real.sum(1) / root * valid)
    jacobian = torch.stack(columns, 1).flatten(2)
    left = ((counts - intensity) / (2 * root) * valid).flatten(1).unsqueeze(-1)
    normal = jacobian @ jacobian.mT
    normal = (
        normal + 1e-6 * torch.diag_embed(normal.diagonal(dim1=1, dim2=2)) + 1e-20 * torch.eye(2, device=left.device)
    )
    return torch.linalg.solve(normal, jacobian @ left).squeeze(-1)


def _slopes(probe: Tensor) -> tuple[Tensor, Tensor]:
    """∂P/∂y and ∂P/∂x, spectral."""
    n = probe.shape[-1]
    frequency = 2j * torch.pi * torch.fft.fftfreq(n, device=probe.device)
    if n % 2 == 0:
        frequency[n // 2] = 0
    spectrum = torch.fft.fft2(probe)
    return torch.fft.ifft2(spectrum * frequency[:, None]), torch.fft.ifft2(spectrum * frequency)


def best_offset(
    obj: Complex[Tensor, "H W"],
    probe: Complex[Tensor, "#b mode n n"],
    corners: Int64[Tensor, "b 2"],
    amplitude: Float[Tensor, "b n n"],
    valid: Bool[Tensor, "... n n"],
    *,
    radius: int,
    propagator: Propagator = FAR_FIELD,
) -> Int64[Tensor, "b 2"]:
    """Which of nine whole-pixel offsets, 0 or ±`radius` in y and x, explains each pattern best, int64 `[b, 2]`.

    The one of least Σ(√I − √n)²; a window that would leave the canvas stays at its edge. Arguments as for
    `likelihood_gradient`.
    """
    n, reach = probe.shape[-1], (0, -radius, radius)
    limits = torch.tensor(obj.shape, device=obj.device) - n
    offsets = torch.tensor([(y, x) for y in reach for x in reach], device=obj.device)
    misfits = []
    for offset in offsets:
        there = torch.minimum((corners + offset).clamp_min(0), limits)
        predicted = detector_intensity(propagator.forward(exit_wave(extract_whole(obj, there, n), probe)))
        misfits.append(((predicted.sqrt() - amplitude).square() * valid).sum((-2, -1)))
    return offsets[torch.stack(misfits).argmin(0)]


def affine_moves(start: Float[Tensor, "b 2"], moved: Float[Tensor, "b 2"]) -> Float[Tensor, "b 2"]:
    """Where the affine map that fits the moves best, in least squares, takes every position `[n, 2]`."""
    centre, matrix, shift = affine_fit(start, moved)
    return (start - centre) @ matrix + shift


def affine_fit(
    positions: Float[Tensor, "b 2"], values: Float[Tensor, "b 2"]
) -> tuple[Float[Tensor, " 2"], Float[Tensor, "2 2"], Float[Tensor, " 2"]]:
    """c = ⟨r_j⟩, A `[2, 2]`, b `[2]` of the affine map (r − c) A + b nearest to the values `[n, 2]` at `positions`."""
    centre = positions.mean(0)
    design = torch.cat([positions - centre, torch.ones_like(positions[:, :1])], 1)
    # on the CPU the default driver, gelsy, reads its pivots from memory that nobody has written: rounding by chance
    driver = "gelsd" if design.device.type == "cpu" else "gels"
    solution = torch.linalg.lstsq(design, values, driver=driver).solution
    return centre, solution[:2], solution[2]
