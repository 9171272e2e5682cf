"""Slow variations of the object's phase, from the shifts of the patterns on the detector (far field).

A phase ramp a [rad/px] under the probe moves a pattern by a·N/2π pixels. The shift of each pattern against the
predicted one therefore measures the phase gradient that the object lacks around its position. The phase whose gradient
fits these values best is added at once, where sweeps would need dozens of iterations.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional as F

from ptycho_torch.physics.patches import extract, place
from ptycho_torch.physics.probe import illumination

DOUBT = 1.5
"""Centroids get weight as far as their squared shifts exceed this many times their squared deviation from the smooth
field around them."""
DARK_LIGHT = 1e-5
"""Least weight, of the largest, in the fit of the phase: where there is no pattern the phase is continued."""


def shift_sums(
    predicted: Float[Tensor, "b n n"], measured: Float[Tensor, "b n n"], valid: Float[Tensor, "... n n"]
) -> Float[Tensor, "b 17"]:
    """The sums over each pattern from which `pattern_shifts` computes its shift, `[b, 17]`.

    predicted, measured: amplitudes √I and √n `[b, N, N]`, centred; valid float `[N, N]`, or one for each pattern.
    Products Σ c_i·c_j of c = (√n − √I, −2 ∂_y √I, −2 ∂_x √I), then moments Σ k_y^i·k_x^j·n and Σ k_y^i·k_x^j·I, k from
    index N//2.
    """
    change = torch.stack(
        [
            (measured - predicted)[:, 1:-1, 1:-1],
            predicted[:, :-2, 1:-1] - predicted[:, 2:, 1:-1],
            predicted[:, 1:-1, :-2] - predicted[:, 1:-1, 2:],
        ],
        1,
    ).mul_(valid[..., None, 1:-1, 1:-1])
    change = change.flatten(2)
    n = predicted.shape[-1]
    reach = torch.arange(n, device=predicted.device, dtype=predicted.dtype) - n // 2
    powers = torch.stack([torch.ones_like(reach), reach], -1)
    with torch.autocast(predicted.device.type, enabled=False):
        moments = [powers.mT @ ((amplitude * valid).square_() @ powers) for amplitude in (measured, predicted)]
        tables = [change @ change.mT, *moments]
    return torch.cat([table.flatten(1) for table in tables], 1)


def pattern_shifts(sums: Float[Tensor, "b 17"]) -> tuple[Float[Tensor, "b 2"], Float[Tensor, "b 2"]]:
    """Shifts of measured against predicted patterns, (y, x) in detector pixels: two estimates `[b, 2]`.

    The first is the shift that best explains √n − √I to first order, H⁻¹b with b = −Σ (√n − √I)·∂√I and H = Σ ∂√I ∂√Iᵀ:
    exact to the photon noise, but valid only up to the size of a speckle. The second is that of the centroid, Σ k·n/Σn
    − Σ k·I/ΣI: valid at any distance, but noisy. `sums` are those of `shift_sums`.
    """
    products, there, here = (part.unflatten(1, (-1, math.isqrt(part.shape[1]))) for part in sums.split((9, 4, 4), 1))
    b_y, b_x = 2 * products[:, 0, 1], 2 * products[:, 0, 2]  # differences span two pixels
    h_yy, h_xx, h_yx = products[:, 1, 1], products[:, 2, 2], products[:, 1, 2]
    determinant = (h_yy * h_xx - h_yx.square()).clamp_min(1e-6 * h_yy * h_xx + 1e-30)
    near = torch.stack([h_xx * b_y - h_yx * b_x, h_yy * b_x - h_yx * b_y], -1) / determinant[:, None]
    return near, _centroid(there) - _centroid(here)


def unexplained(sums: Float[Tensor, "b 17"]) -> Float[Tensor, ""]:
    """R² = Σ (√n − √I)² / Σ n over all patterns of these `shift_sums`: the remaining misfit, 0 … about 1."""
    return sums[:, 0].sum() / sums[:, 9].sum().clamp_min(1e-30)


def slow_phase(
    sums: Float[Tensor, "b 17"],
    positions: Float[Tensor, "b 2"],
    probe: Complex[Tensor, "mode n n"],
    shape: tuple[int, int],
) -> Float[Tensor, "{shape[0]} {shape[1]}"]:
    """The phase [rad] on a canvas of `shape` whose gradient fits the shifts of all patterns, float32 `[H, W]`.

    φ = argmin Σ_r I(r) |∇φ(r) − g(r)|², g = Σ_j |P(r − r_j)|² a_j / I(r), I = Σ_j |P(r − r_j)|², on cells of a few
    pixels; a_j is the ramp of pattern j, from its `shift_sums`: that of the centroids as far as neighbours agree, else
    that of the amplitudes. positions `[n, 2]` on the canvas; probe `[mode, N, N]`. H and W are multiples of 8.
    Source of the idea: differential phase contrast (Dekkers & de Lang 1974).
    """
    n = probe.shape[-1]
    cell = min(8, 2 ** int(math.log2(n / 8)))
    cells = (shape[0] // cell, shape[1] // cell)
    where = (positions - (cell - 1) / 2) / cell
    near, far = pattern_shifts(sums)
    values = torch.cat([torch.ones_like(near[:, :1]), near, far], -1)
    dots = torch.stack([place(value[:, None, None], where, cells) for value in values.unbind(-1)])
    kernel = _on_cells(illumination(probe), cell, cells)
    light, *field = torch.fft.irfft2(torch.fft.rfft2(dots) * torch.fft.rfft2(kernel), s=cells).unbind()
    weight = light.clamp_min(0) / light.max() + DARK_LIGHT
    field_near, field_far = torch.stack(field).div(light.max()).mul_(2 * math.pi / n * cell).split(2)
    belief = _agreement(far, field_far / weight * (n / (2 * math.pi * cell)), where)
    phase = _fit_gradient(torch.lerp(field_near, field_far, belief), weight)
    return F.interpolate(phase[None, None], size=shape, mode="bicubic")[0, 0]


def _agreement(shifts: Tensor, smooth: Tensor, where: Tensor) -> Tensor:
    """Weight of the shifts `[n, 2]`, 0 … 1, by their agreement with the smooth field `[2, h, w]` around them."""
    expected = torch.stack([extract(part, where, 1)[:, 0, 0] for part in smooth], -1)
    noise, signal = (shifts - expected).square().sum(), shifts.square().sum()
    return (1 - DOUBT * noise / signal.clamp_min(1e-30)).clamp_min(0)


def _centroid(moments: Tensor) -> Tensor:
    """Mean (y, x) `[b, 2]`, from index N//2, of patterns with these moments `[b, 2, 2]`."""
    return torch.stack([moments[:, 1, 0], moments[:, 0, 1]], -1) / moments[:, :1, 0].clamp_min(1e-30)


def _on_cells(light: Tensor, cell: int, cells: tuple[int, int]) -> Tensor:
    """An illumination `[N, N]` averaged over cells, its centre on cell [0, 0] of a periodic canvas."""
    n = light.shape[-1]
    before = -(n // 2 - cell // 2) % cell
    after = -(before + n) % cell
    small = F.avg_pool2d(F.pad(light, (before, after, before, after))[None], cell)[0]
    centre = (before + n // 2) // cell
    canvas = F.pad(small, (0, cells[1] - small.shape[1], 0, cells[0] - small.shape[0]))
    return torch.roll(canvas, (-centre, -centre), (0, 1))


def _fit_gradient(weighted: Tensor, weight: Tensor) -> Tensor:
    """φ = argmin Σ w |∇φ − g|² over the links between neighbouring cells, by preconditioned conjugate gradients.

    weighted `[2, h, w]` = w·g, per cell; weight `[h, w]`. The mean of φ over the weight is zero.
    """
    link_y, link_x = (weight[1:] + weight[:-1]) / 2, (weight[:, 1:] + weight[:, :-1]) / 2

    def divergence(y: Tensor, x: Tensor) -> Tensor:
        return F.pad(y, (0, 0, 1, 0)) - F.pad(y, (0, 0, 0, 1)) + F.pad(x, (1, 0)) - F.pad(x, (0, 1))

    diagonal = F.pad(link_y, (0, 0, 1, 0)) + F.pad(link_y, (0, 0, 0, 1)) + F.pad(link_x, (1, 0)) + F.pad(link_x, (0, 1))
    residual = divergence((weighted[0, 1:] + weighted[0, :-1]) / 2, (weighted[1, :, 1:] + weighted[1, :, :-1]) / 2)
    phase, search = torch.zeros_like(weight), residual / diagonal
    size = (residual * search).sum()
    for _ in range(max(weight.shape)):
        image = divergence(link_y * search.diff(dim=0), link_x * search.diff(dim=1))
        step = size / (search * image).sum().clamp_min(1e-30)
        phase, residual = phase + step * search, residual - step * image
        scaled = residual / diagonal
        before, size = size, (residual * scaled).sum()
        search = scaled + size / before.clamp_min(1e-30) * search
    return phase - (weight * phase).sum() / weight.sum()
