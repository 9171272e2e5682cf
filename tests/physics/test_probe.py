"""Laws of the probe: its moves, its modes, its first guess."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from physics_cases import law, random_wave

from ptycho_torch.physics import optics, probe


@law
@given(st.sampled_from([15, 16]), st.integers(-4, 4), st.integers(-4, 4))
def test_a_shifted_probe_is_a_rolled_probe_at_whole_pixels(n: int, dy: int, dx: int) -> None:
    modes = random_wave(2, n, n, seed=3)
    moved = probe.shift_probe(modes, torch.tensor([[dy, dx]], dtype=torch.float64))
    assert torch.allclose(moved[0], torch.roll(modes, (dy, dx), (-2, -1)), atol=1e-6)


def test_a_shifted_probe_is_the_band_limited_probe_between_pixels() -> None:
    grid = torch.arange(32, dtype=torch.float64) - 16

    def blob(y, x):
        return torch.exp(-((grid[:, None] - y) ** 2 + (grid[None, :] - x) ** 2) / 18 + 0.3j * (grid[:, None] - y))

    moved = probe.shift_probe(blob(0.0, 0.0)[None], torch.tensor([[0.3, -0.45]], dtype=torch.float64))
    assert torch.allclose(moved[0, 0], blob(0.3, -0.45), atol=1e-5)


def test_the_guessed_probe_makes_the_mean_pattern() -> None:
    mean = torch.rand(16, 16, generator=torch.Generator().manual_seed(1)) * 100
    guess = probe.guess_probe(mean)
    assert guess.shape == (1, 16, 16)
    assert torch.allclose(optics.detector_intensity(optics.far_field(guess)), mean, rtol=1e-4, atol=1e-3)
