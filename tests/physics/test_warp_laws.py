"""Laws of slow distortions: the field that moves share, and the object warp along with it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from physics_cases import law, random_real, random_wave, seeds

from ptycho_torch.physics.warp import affine_field, smooth_field, warp

sides = st.integers(12, 31)


@law
@given(sides, sides, st.integers(-3, 3), st.integers(-3, 3), seeds)
def test_a_constant_field_is_a_shift(height: int, width: int, dy: int, dx: int, seed: int) -> None:
    obj = random_wave(height, width, seed=seed)
    field = torch.tensor([dy, dx], dtype=torch.float64)[:, None, None].expand(2, height, width)
    moved, inner = warp(obj, field), (slice(5, height - 5), slice(5, width - 5))
    assert torch.allclose(moved[inner], torch.roll(obj, (dy, dx), (0, 1))[inner])
    assert torch.allclose(warp(obj, 0 * field), obj)


@law
@given(sides, sides, seeds)
def test_carrying_is_linear_and_keeps_a_flat_object(height: int, width: int, seed: int) -> None:
    field = 3 * random_real(2, height, width, seed=seed)
    one, two = random_wave(2, height, width, seed=seed + 1)
    whole = warp(one - 2j * two, field)
    assert torch.allclose(whole, warp(one, field) - 2j * warp(two, field))
    flat = torch.full((height, width), 0.3 - 0.7j, dtype=torch.complex128)
    assert torch.allclose(warp(flat, field), flat)


def test_a_smooth_wave_is_carried_between_pixels() -> None:
    def wave(dy: float, dx: float) -> torch.Tensor:
        y, x = torch.arange(40, dtype=torch.float64) - dy, torch.arange(52, dtype=torch.float64) - dx
        return torch.polar(torch.ones(40, 52, dtype=torch.float64), 0.2 * y[:, None] - 0.15 * x[None, :])

    field = torch.tensor([0.4, -1.3], dtype=torch.float64)[:, None, None].expand(2, 40, 52)
    inner = (slice(4, -4), slice(4, -4))
    assert torch.allclose(warp(wave(0, 0), field)[inner], wave(0.4, -1.3)[inner], atol=0.02)


@law
@given(sides, sides, seeds)
def test_the_affine_field_is_exact_for_affine_moves(height: int, width: int, seed: int) -> None:
    positions = 20 * random_real(7, 2, seed=seed)
    matrix, shift = random_real(2, 2, seed=seed + 1) - 0.5, random_real(2, seed=seed + 2)
    field = affine_field(positions, positions @ matrix + shift, (height, width))
    rows, columns = torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64)
    places = torch.stack([rows[:, None].expand(height, width), columns.expand(height, width)], -1)
    assert field.shape == (2, height, width)
    assert torch.allclose(field.double(), (places @ matrix + shift).movedim(-1, 0), atol=1e-4)


@law
@given(st.integers(-8, 8), st.integers(-8, 8), st.sampled_from([4.0, 6.0]), seeds)
def test_moves_that_all_share_are_the_field(dy: int, dx: int, sigma: float, seed: int) -> None:
    positions = torch.cartesian_prod(torch.arange(6.0, 50, 4), torch.arange(6.0, 70, 4)).double()
    positions = positions + random_real(*positions.shape, seed=seed)
    moves = torch.tensor([[dy / 4, dx / 4]], dtype=torch.float64).expand(len(positions), 2)
    field = smooth_field(positions, moves, (56, 76), sigma=sigma)
    assert field.shape == (2, 56, 76)
    error = field[:, 10:46, 10:66].double() - moves[0, :, None, None]
    assert float(error.abs().max()) <= 0.01 * max(abs(dy), abs(dx)) / 4 + 1e-6


def test_a_field_fades_far_from_all_positions_and_comes_not_back_around_the_rim() -> None:
    positions = torch.tensor([[4.0, 4.0], [6.0, 5.0]], dtype=torch.float64)
    field = smooth_field(positions, torch.ones_like(positions), (96, 96), sigma=4.0)
    assert float(field[:, 5, 5].min()) > 0.9
    assert float(field[:, 60:, :].abs().max()) < 0.01 and float(field[:, :, 60:].abs().max()) < 0.01


def test_a_slow_field_is_blurred_by_its_gaussian() -> None:
    positions = torch.cartesian_prod(torch.arange(0.0, 120, 2), torch.arange(0.0, 40, 2)).double()
    wave_number, sigma = 2 * math.pi / 60, 6.0
    moves = torch.stack([torch.sin(wave_number * positions[:, 0]), 0 * positions[:, 0]], -1)
    field = smooth_field(positions, moves, (120, 40), sigma=sigma)
    y = torch.arange(120)[30:90]
    left = math.exp(-((wave_number * sigma) ** 2) / 2)
    assert torch.allclose(field[0, 30:90, 20], left * torch.sin(wave_number * y), atol=0.06)
    assert float(field[0, 30:90, 20].abs().max()) == pytest.approx(left, rel=0.06)
