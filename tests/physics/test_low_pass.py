"""Laws of telling slow parts of an object from its details."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from physics_cases import law, random_real, random_wave, seeds

from ptycho_torch.physics.low_pass import DETAIL_PX, combine_frequencies, low_pass

sides = st.integers(9, 26)


@law
@given(sides, sides, st.integers(-8, 8), st.integers(-8, 8), seeds)
def test_blurring_is_linear_commutes_with_shifts_and_keeps_the_mean(
    height: int, width: int, dy: int, dx: int, seed: int
) -> None:
    one, two = random_wave(2, height, width, seed=seed)
    assert torch.allclose(low_pass(one - 2j * two), low_pass(one) - 2j * low_pass(two))
    moved = torch.roll(one, (dy, dx), (0, 1))
    assert torch.allclose(low_pass(moved), torch.roll(low_pass(one), (dy, dx), (0, 1)))
    assert torch.allclose(low_pass(one).mean(), one.mean())
    assert torch.allclose(low_pass(one.real + 0j).imag, torch.zeros_like(one.real), atol=1e-12)
    assert torch.allclose(low_pass(torch.stack([one, two]))[1], low_pass(two))


@law
@given(sides, sides, st.integers(-4, 4), st.integers(-4, 4))
def test_a_wave_keeps_what_a_gaussian_leaves_of_it(height: int, width: int, down: int, right: int) -> None:
    y, x = torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64)
    wave = torch.exp(2j * torch.pi * (down * y[:, None] / height + right * x[None, :] / width))
    left = math.exp(-2 * (math.pi * DETAIL_PX) ** 2 * ((down / height) ** 2 + (right / width) ** 2))
    assert torch.allclose(low_pass(wave), left * wave, atol=1e-6)


@law
@given(st.integers(16, 26), st.integers(16, 26), st.floats(0.2, 3), st.floats(-3, 3), seeds)
def test_slow_factors_are_taken_from_the_last_and_details_from_the_first(
    height: int, width: int, factor: float, turn: float, seed: int
) -> None:
    first = 1 + 0.3 * random_wave(height, width, seed=seed)
    light = 5 * random_real(height, width, seed=seed + 1)
    light[: height // 3] = 0  # part of the canvas is dark
    assert torch.allclose(combine_frequencies(first, first, light), first)
    slow = complex(factor * math.cos(turn), factor * math.sin(turn))
    assert torch.allclose(combine_frequencies(first, slow * first, light), slow * first)
    board = 1 - 2.0 * ((torch.arange(height)[:, None] + torch.arange(width)) % 2)
    even = torch.ones(height, width, dtype=torch.complex128)
    if height % 2 == 0 and width % 2 == 0:  # the finest detail of all is not taken over
        detailed = slow * even * (1 + 0.2 * board)
        assert torch.allclose(combine_frequencies(even, detailed, torch.ones_like(light)), slow * even, atol=1e-6)
