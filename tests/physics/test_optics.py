"""Laws of the far field, of modes and of pixel sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from physics_cases import law, random_wave, seeds, sizes

from ptycho_torch.physics import optics


@law
@given(sizes, sizes, seeds)
def test_far_field_agrees_with_numpy_keeps_energy_and_inverts(height: int, width: int, seed: int) -> None:
    wave = random_wave(2, height, width, seed=seed)
    axes = (-2, -1)
    centred = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(wave.numpy(), axes=axes), norm="ortho"), axes=axes)
    detector = optics.far_field(wave)
    np.testing.assert_allclose(detector.numpy(), centred, atol=1e-12)
    assert torch.allclose(detector.abs().square().sum(), wave.abs().square().sum())
    assert torch.allclose(optics.inverse_far_field(detector), wave)


@law
@given(sizes, st.integers(-3, 3), st.integers(-3, 3), seeds)
def test_moving_the_wave_turns_the_phase_of_the_far_field(n: int, dy: int, dx: int, seed: int) -> None:
    wave = random_wave(n, n, seed=seed)
    moved = optics.far_field(torch.roll(wave, (dy, dx), (0, 1)))
    k = torch.arange(n, dtype=torch.float64) - n // 2
    ramp = torch.exp(-2j * torch.pi * (k[:, None] * dy + k[None, :] * dx) / n)
    assert torch.allclose(moved, optics.far_field(wave) * ramp)


def test_intensity_adds_over_modes_and_not_amplitude() -> None:
    modes, obj = random_wave(3, 8, 8, seed=1), random_wave(2, 8, 8, seed=2)
    together = optics.detector_intensity(optics.far_field(optics.exit_wave(obj, modes)))
    apart = sum(optics.detector_intensity(optics.far_field(optics.exit_wave(obj, modes[m : m + 1]))) for m in range(3))
    assert together.shape == (2, 8, 8)
    assert torch.allclose(together, torch.as_tensor(apart))
    coherent = optics.detector_intensity(optics.far_field(optics.exit_wave(obj, modes.sum(0, keepdim=True))))
    assert not torch.allclose(together, coherent)


def test_object_pixel_of_a_known_beamline() -> None:
    wavelength = optics.wavelength_of_photon_m(8800.0)
    assert wavelength == pytest.approx(1.4089e-10, rel=1e-4)
    assert optics.object_pixel_size_m(wavelength, 1.0, 128, 75e-6) == pytest.approx(1.4676e-8, rel=1e-4)
