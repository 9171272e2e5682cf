"""Slow distortions that object and positions share: the patterns are nearly insensitive to them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional

from ptycho_torch.physics.patches import place
from ptycho_torch.physics.positions import affine_fit

CELLS_PER_SIGMA = 1.5
FAINT = 1e-3
"""Where the positions around have less than this fraction of the largest weight, the field goes to zero."""


def smooth_field(
    positions: Float[Tensor, "b 2"], moves: Float[Tensor, "b 2"], shape: tuple[int, int], *, sigma: float
) -> Float[Tensor, "2 {shape[0]} {shape[1]}"]:
    """The local mean of the moves `[n, 2]` at positions `[n, 2]`: u(r) (y, x) [px] on a canvas, `[2, H, W]`.

    u(r) = Σ_j G(r − r_j) m_j / Σ_j G(r − r_j), G a Gaussian of `sigma` px, on cells of σ / 1.5 px and cubic between
    them; zero far from all positions.
    """
    cell = max(1, round(sigma / CELLS_PER_SIGMA))
    cells = (-(-shape[0] // cell), -(-shape[1] // cell))
    values = torch.cat([moves, torch.ones_like(moves[:, :1])], 1).float()
    where = (positions - (cell - 1) / 2) / cell
    dots = torch.stack([place(value[:, None, None], where, cells) for value in values.unbind(-1)])
    padded = (2 * cells[0], 2 * cells[1])  # no wrap-around
    vertical = torch.fft.fftfreq(padded[0], device=dots.device)
    horizontal = torch.fft.rfftfreq(padded[1], device=dots.device)
    blur = torch.exp(-2 * (math.pi * sigma / cell) ** 2 * (vertical[:, None].square() + horizontal.square()))
    around = torch.fft.irfft2(torch.fft.rfft2(dots, s=padded) * blur, s=padded)[:, : cells[0], : cells[1]]
    weight = around[2].clamp_min(0)
    coarse = around[:2] / (weight + FAINT * weight.max())
    fine = functional.interpolate(coarse[None], size=(cells[0] * cell, cells[1] * cell), mode="bicubic")
    return fine[0, :, : shape[0], : shape[1]]


def affine_field(
    positions: Float[Tensor, "b 2"], moves: Float[Tensor, "b 2"], shape: tuple[int, int]
) -> Float[Tensor, "2 {shape[0]} {shape[1]}"]:
    """The affine u(r) = (r − ⟨r_j⟩) A + b that fits moves `[n, 2]` at positions `[n, 2]` best, `[2, H, W]`."""
    centre, (down, right), shift = affine_fit(positions, moves)
    rows = torch.arange(shape[0], device=positions.device)[:, None] - centre[0]
    columns = torch.arange(shape[1], device=positions.device) - centre[1]
    along = down[:, None, None] * rows + right[:, None, None] * columns
    return (along + shift[:, None, None]).float()


def warp(obj: Complex[Tensor, "H W"], field: Float[Tensor, "2 H W"]) -> Complex[Tensor, "H W"]:
    """An object `[H, W]` warped by a displacement field u `[2, H, W]`: O(r) ← O(r − u(r)), cubic between pixels."""
    height, width = obj.shape
    rows = torch.arange(height, device=obj.device)[:, None] - field[0]
    columns = torch.arange(width, device=obj.device) - field[1]
    places = torch.stack([2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1], -1)[None]
    parts = torch.stack([obj.real, obj.imag])[None]
    moved = functional.grid_sample(parts, places, mode="bicubic", padding_mode="border", align_corners=True)[0]
    return torch.complex(moved[0], moved[1])
