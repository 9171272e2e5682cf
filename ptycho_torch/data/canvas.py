"""A canvas of patches: sums that can be added in any order and merged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ptycho_torch.physics.patches import extract, place, place_whole


@dataclass(frozen=True, eq=False)
class Canvas:
    """Σ weight · patch and Σ weight on a piece of the object grid whose pixel [0, 0] lies at `origin` (y, x).

    A commutative monoid: `add` and `lay` put patches down, `merge` joins two canvases, `resolve` divides; one pass,
    chunks in any order and many ranks give the same object. With weights |P_j|² and the sum Σ conj(P_j) χ_j of the
    exit-wave corrections it is the update of a sweep; with patches of the object, their weighted mean.
    """

    summed: Tensor  # complex [H, W]
    weight: Tensor  # float [H, W], the same weights that multiply `summed`
    origin: tuple[int, int]

    @classmethod
    def empty(cls, origin: tuple[int, int], shape: tuple[int, int], *, device: torch.device | str = "cpu") -> Canvas:
        summed = torch.zeros(shape, dtype=torch.complex64, device=device)
        return cls(summed, torch.zeros(shape, device=device), origin)

    @classmethod
    def around(cls, positions: Tensor, n: int, *, device: torch.device | str = "cpu") -> Canvas:
        """The smallest empty canvas that holds every n × n patch at these positions, sub-pixel ones included."""
        low = torch.floor(positions.amin(0)).to(torch.int64) - n // 2
        high = torch.ceil(positions.amax(0)).to(torch.int64) - n // 2 + n
        size = (high - low).tolist()
        return cls.empty((int(low[0]), int(low[1])), (size[0], size[1]), device=device)

    def add(self, patches: Tensor, positions: Tensor, weight: Tensor) -> Canvas:
        """This canvas with patches `[b, n, n]` at object positions `[b, 2]`, each weighted by `weight` `[n, n]` ≥ 0."""
        local = positions - torch.tensor(self.origin, dtype=positions.dtype, device=positions.device)
        shape = (self.summed.shape[0], self.summed.shape[1])
        weights = weight.expand(len(patches), -1, -1)
        return Canvas(
            self.summed + place(weights * patches, local, shape),
            self.weight + place(weights, local, shape),
            self.origin,
        )

    def lay(self, products: Tensor, corners: Tensor, weights: Tensor | None = None) -> Canvas:
        """This canvas with weight · value `[b, n, n]` whose first pixels lie at `corners` (int64 `[b, 2]`).

        `weights` `[b, n, n]` may be left out if their sum is known (see `weighed`).
        """
        shape = (self.summed.shape[0], self.summed.shape[1])
        summed = self.summed + place_whole(products, corners, shape)
        weight = self.weight if weights is None else self.weight + place_whole(weights, corners, shape)
        return Canvas(summed, weight, self.origin)

    def weighed(self, weight: Tensor) -> Canvas:
        """This canvas with Σ weight `[H, W]`."""
        return Canvas(self.summed, weight, self.origin)

    def merge(self, other: Canvas) -> Canvas:
        """The canvas that holds both, on the bounding box of the two."""
        corners = [(c.origin[i], c.origin[i] + c.summed.shape[i]) for c in (self, other) for i in (0, 1)]
        origin = (min(corners[0][0], corners[2][0]), min(corners[1][0], corners[3][0]))
        end = (max(corners[0][1], corners[2][1]), max(corners[1][1], corners[3][1]))
        joined = Canvas.empty(origin, (end[0] - origin[0], end[1] - origin[1]), device=self.summed.device)
        for canvas in (self, other):
            y, x = canvas.origin[0] - origin[0], canvas.origin[1] - origin[1]
            window = (slice(y, y + canvas.summed.shape[0]), slice(x, x + canvas.summed.shape[1]))
            joined.summed[window] += canvas.summed
            joined.weight[window] += canvas.weight
        return joined

    def resolve(self) -> Tensor:
        """The object: the weighted mean of the patches at each pixel, zero where there is none."""
        weight = self.weight.clamp_min(torch.finfo(self.weight.dtype).tiny)
        return torch.where(self.weight > 0, self.summed / weight, torch.zeros_like(self.summed))


def synchronise_phases(
    patches: Tensor, positions: Tensor, weight: Tensor, canvas: Canvas, *, rounds: int = 3
) -> Tensor:
    """The global phase of each patch against the others (and the canvas so far): unit complex `[b]`.

    Alternates merge and compare: O = merged(p_j / u_j), u_j = phase of ⟨O at j, p_j⟩ under the weight. Source: the
    angular synchronisation step of overlap-based stitching.
    """
    phases = torch.ones(len(patches), dtype=patches.dtype, device=patches.device)
    for _ in range(rounds):
        merged = canvas.add(patches * phases.conj()[:, None, None], positions, weight).resolve()
        shared = extract(merged, positions, patches.shape[-1])
        overlap = (weight * shared.conj() * patches).sum((-2, -1))
        phases = torch.where(overlap.abs() > 0, overlap / overlap.abs().clamp_min(1e-30), phases)
    return phases
