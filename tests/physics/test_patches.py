"""Laws of cutting patches and laying them back."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from physics_cases import law, random_wave, seeds

from ptycho_torch.physics import patches


@law
@given(st.integers(2, 7), st.booleans(), seeds)
def test_place_is_the_adjoint_of_extract(n: int, whole: bool, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    positions = torch.rand(5, 2, dtype=torch.float64, generator=rng) * 24 - 4  # some reach over the rim
    positions = positions.round() if whole else positions
    obj, cut = random_wave(15, 18, seed=seed), random_wave(5, n, n, seed=seed + 1)
    left = torch.vdot(patches.extract(obj, positions, n).flatten(), cut.flatten())
    right = torch.vdot(obj.flatten(), patches.place(cut, positions, (15, 18)).flatten())
    assert torch.allclose(left, right)


@law
@given(st.integers(2, 7), seeds)
def test_a_plane_is_cut_exactly_between_pixels(n: int, seed: int) -> None:
    y, x = torch.meshgrid(
        torch.arange(30.0, dtype=torch.float64), torch.arange(25.0, dtype=torch.float64), indexing="ij"
    )
    plane = 0.3 + 0.7 * y - 0.2 * x
    positions = 8 + 9 * torch.rand(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    reach = torch.arange(n, dtype=torch.float64) - n // 2
    at_y, at_x = positions[:, 0, None, None] + reach[:, None], positions[:, 1, None, None] + reach[None, :]
    assert torch.allclose(patches.extract(plane, positions, n), 0.3 + 0.7 * at_y - 0.2 * at_x)


def test_a_whole_position_copies_the_pixels_around_it() -> None:
    obj = random_wave(20, 30)
    cut = patches.extract(obj, torch.tensor([[9.0, 14.0]], dtype=torch.float64), 6)
    assert torch.equal(cut[0], obj[6:12, 11:17])


def test_split_positions_leaves_at_most_half_a_pixel() -> None:
    positions = torch.tensor([[1.5, -0.5], [2.49, 7.0]], dtype=torch.float64)
    whole, fraction = patches.split_positions(positions)
    assert torch.equal(whole + fraction, positions)
    assert fraction.min() >= -0.5 and fraction.max() < 0.5
