"""Patches cut from an object and added to a canvas: an adjoint pair by construction.

A position is the (y, x) object index that meets array index N//2 of a patch, so the patch's corner lies at
position − N//2. Whole positions copy pixels exactly; between pixels both functions use bilinear weights.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Inexact, Int64
from torch import Tensor


def split_positions(positions: Float[Tensor, "b 2"]) -> tuple[Int64[Tensor, "b 2"], Float[Tensor, "b 2"]]:
    """Whole pixels (int64) and the fraction in [−1/2, 1/2) that is left, positions = whole + fraction."""
    whole = torch.floor(positions + 0.5)
    return whole.to(torch.int64), positions - whole


def extract(obj: Inexact[Tensor, "H W"], positions: Float[Tensor, "b 2"], n: int) -> Inexact[Tensor, "b {n} {n}"]:
    """The object seen through an n × n window at each position: `[H, W]`, `[b, 2]` → `[b, n, n]`; zero outside.

    o_j(r) = Σ_corners w(corner) · O(corner_j + r), bilinear in the fraction of a pixel; a plane is cut exactly.
    """
    corners, fraction = _corners(positions, n)
    if not bool(fraction.any()):
        return extract_whole(obj, corners, n)
    wide = extract_whole(obj, corners, n + 1)
    y, x = _blend_weights(fraction, wide)
    rows = (1 - y) * wide[:, :-1] + y * wide[:, 1:]
    return (1 - x) * rows[:, :, :-1] + x * rows[:, :, 1:]


def place(
    patches: Inexact[Tensor, "b n n"], positions: Float[Tensor, "b 2"], shape: tuple[int, int]
) -> Inexact[Tensor, "{shape[0]} {shape[1]}"]:
    """The sum of all patches laid at their positions on a canvas of `shape`: the adjoint of `extract`.

    ⟨extract(O), p⟩ = ⟨O, place(p)⟩ for every O and p; what falls outside the canvas is dropped.
    """
    n = patches.shape[-1]
    corners, fraction = _corners(positions, n)
    if not bool(fraction.any()):
        return place_whole(patches, corners, shape)
    y, x = _blend_weights(fraction, patches)
    pad = torch.nn.functional.pad
    rows = pad((1 - x) * patches, (0, 1)) + pad(x * patches, (1, 0))
    wide = pad((1 - y) * rows, (0, 0, 0, 1)) + pad(y * rows, (0, 0, 1, 0))
    return place_whole(wide, corners, shape)


def extract_whole(obj: Inexact[Tensor, "H W"], corners: Int64[Tensor, "b 2"], n: int) -> Inexact[Tensor, "b {n} {n}"]:
    """Exact copies of n × n windows whose first pixel lies at `corners` (int64 `[b, 2]`); zero outside."""
    before, after = _overhang(corners, n, obj.shape)
    if any(before) or any(after):
        obj = torch.nn.functional.pad(obj, (before[1], after[1], before[0], after[0]))
        corners = corners + torch.tensor(before, device=corners.device)
    return _Cut.apply(obj, corners, n)


def place_whole(
    patches: Inexact[Tensor, "b n n"], corners: Int64[Tensor, "b 2"], shape: tuple[int, int]
) -> Inexact[Tensor, "{shape[0]} {shape[1]}"]:
    """The sum of patches whose first pixel lies at `corners`, the adjoint of `extract_whole`."""
    before, after = _overhang(corners, patches.shape[-1], shape)
    wide = (shape[0] + before[0] + after[0], shape[1] + before[1] + after[1])
    canvas = _Lay.apply(patches, corners + torch.tensor(before, device=corners.device), wide)
    return canvas[before[0] : before[0] + shape[0], before[1] : before[1] + shape[1]]


def _corners(positions: Tensor, n: int) -> tuple[Tensor, Tensor]:
    floor = torch.floor(positions)
    return floor.to(torch.int64) - n // 2, positions - floor


def _blend_weights(fraction: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    real = like.real.dtype if like.is_complex() else like.dtype
    y, x = fraction.to(real).to(like.device).unbind(-1)
    return y[:, None, None], x[:, None, None]


def _overhang(corners: Tensor, n: int, shape: Any) -> tuple[list[int], list[int]]:
    """Pixels by which windows exceed the first and the last rows and columns."""
    if len(corners) == 0:
        return [0, 0], [0, 0]
    low, high = corners.amin(0).tolist(), corners.amax(0).tolist()
    return [max(0, -low[i]) for i in (0, 1)], [max(0, high[i] + n - shape[i]) for i in (0, 1)]


class _Cut(torch.autograd.Function):
    """Copies of windows that all lie inside the object."""

    @staticmethod
    def forward(ctx: Any, obj: Tensor, corners: Tensor, n: int) -> Tensor:
        ctx.corners, ctx.shape = corners, tuple(obj.shape)
        return _cut(obj, corners, n)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Lay.apply(gradient, ctx.corners, ctx.shape), None, None


class _Lay(torch.autograd.Function):
    """The sum of windows that all lie inside the canvas."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, corners: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.corners, ctx.n = corners, patches.shape[-1]
        return _lay(patches, corners, shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Cut.apply(gradient.contiguous(), ctx.corners, ctx.n), None, None


def _cut(obj: Tensor, corners: Tensor, n: int) -> Tensor:
    if obj.device.type == "cpu":  # slices in numpy: three times as fast as an index on this device
        source = obj.detach().resolve_conj().numpy()
        patches = torch.empty(len(corners), n, n, dtype=obj.dtype)
        target = patches.numpy()
        for j, (y, x) in enumerate(corners.tolist()):
            target[j] = source[y : y + n, x : x + n]
        return patches
    windows = obj.unfold(0, n, 1).unfold(1, n, 1)
    return windows[corners[:, 0], corners[:, 1]]


def _lay(patches: Tensor, corners: Tensor, shape: tuple[int, int]) -> Tensor:
    canvas = torch.zeros(shape, dtype=patches.dtype, device=patches.device)
    n = patches.shape[-1]
    if patches.device.type == "cpu":
        source, target = patches.detach().resolve_conj().numpy(), canvas.numpy()
        for j, (y, x) in enumerate(corners.tolist()):
            target[y : y + n, x : x + n] += source[j]
        return canvas
    reach = torch.arange(n, device=patches.device)
    rows = (corners[:, 0, None] + reach)[:, :, None] * shape[1]
    columns = (corners[:, 1, None] + reach)[:, None, :]
    return canvas.view(-1).index_add_(0, (rows + columns).reshape(-1), patches.reshape(-1)).view(shape)
