"""What the laws of the physics are tried on: sizes, complex asymmetric waves, and every propagator."""

from __future__ import annotations

import torch
from hypothesis import settings
from hypothesis import strategies as st

from ptycho_torch.physics.propagation import FAR_FIELD, NearField, Propagator

PROPAGATORS: dict[str, Propagator] = {
    "far": FAR_FIELD,
    "near-0.05": NearField(0.05),
    "near-0.7": NearField(0.7),
    "near-30": NearField(30.0),
}
"""A new propagator is one more line here, and all laws hold for it."""

sizes = st.integers(4, 13)
seeds = st.integers(0, 2**31 - 1)
law = settings(max_examples=25, deadline=None)
few = settings(max_examples=8, deadline=None)


def random_wave(*shape: int, seed: int = 0) -> torch.Tensor:
    """Complex Gaussian noise in double precision: no symmetry, all frequencies."""
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def random_real(*shape: int, seed: int = 0) -> torch.Tensor:
    """Uniform in [0, 1), double precision."""
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def inner(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """⟨left, right⟩ = Σ left* · right."""
    return torch.vdot(left.flatten(), right.flatten())


def gaussian(n: int, width: float, *, y: float = 0.0, x: float = 0.0) -> torch.Tensor:
    """exp(−|r − (y, x)|² / width²), r from index n//2, complex `[n, n]`."""
    reach = torch.arange(n, dtype=torch.float64) - n // 2
    return torch.exp(-((reach[:, None] - y) ** 2 + (reach[None, :] - x) ** 2) / width**2).to(torch.complex128)
