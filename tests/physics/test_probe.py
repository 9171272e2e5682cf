"""Laws of the probe: its moves, its modes, its first guess."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from physics_cases import gaussian, inner, law, random_real, random_wave, seeds

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


@law
@given(st.sampled_from([9, 10]), seeds)
def test_moving_back_is_the_adjoint_of_moving(n: int, seed: int) -> None:
    modes, waves = random_wave(2, n, n, seed=seed), random_wave(4, 2, n, n, seed=seed + 1)
    for fraction in (random_real(4, 2, seed=seed) - 0.5, torch.zeros(4, 2, dtype=torch.float64)):
        moved = probe.shift_probe(modes, fraction)
        assert torch.allclose(inner(waves, moved), inner(probe.gather_shifted(waves, fraction), modes))


@law
@given(st.floats(-0.5, 0.49), st.floats(-0.5, 0.49), st.sampled_from([11, 12]), seeds)
def test_moves_add_keep_the_power_and_keep_real_arrays_real(dy: float, dx: float, n: int, seed: int) -> None:
    modes, move = random_wave(2, n, n, seed=seed), torch.tensor([[dy, dx]], dtype=torch.float64)
    if n % 2 == 0:  # the Nyquist rows of an even size are damped on purpose
        spectra = torch.fft.fft2(modes)
        spectra[:, n // 2] = spectra[:, :, n // 2] = 0
        modes = torch.fft.ifft2(spectra)
    moved = probe.shift_probe(modes, move)
    assert torch.allclose(probe.probe_power(moved[0]), probe.probe_power(modes))
    assert torch.allclose(probe.shift_probe(moved[0], -move)[0], modes)
    assert torch.allclose(probe.shift_probe(moved[0], 2 * move)[0], probe.shift_probe(modes, 3 * move)[0])
    real = probe.shift_probe(random_wave(1, n, n, seed=seed).real + 0j, move)
    assert torch.allclose(real.imag, torch.zeros_like(real.imag), atol=1e-12)


@law
@given(st.integers(1, 4), st.integers(5, 8), seeds)
def test_orthogonal_modes_are_a_unitary_mixture_strongest_first(count: int, n: int, seed: int) -> None:
    modes = random_wave(count, n, n, seed=seed)
    unitary = probe.orthogonal_modes(modes)
    assert torch.allclose(unitary @ unitary.conj().mT, torch.eye(count, dtype=torch.complex128))
    turned = (unitary @ modes.flatten(1)).unflatten(1, (n, n))
    overlaps = turned.flatten(1) @ turned.flatten(1).conj().mT
    assert torch.allclose(overlaps, torch.diag(overlaps.diagonal()), atol=1e-9)
    assert bool((overlaps.diagonal().real.diff() <= 1e-9).all())
    both = [optics.detector_intensity(optics.far_field(each)) for each in (modes, turned)]
    assert torch.allclose(*both)


@law
@given(st.integers(1, 3), st.integers(1, 5), st.floats(0.01, 0.1), seeds)
def test_added_modes_are_orthogonal_and_leave_the_power(count: int, wanted: int, power: float, seed: int) -> None:
    modes = random_wave(count, 9, 9, seed=seed)
    more = probe.with_more_modes(modes, wanted, power=power)
    if wanted <= count:
        assert torch.equal(more, modes)
        return
    assert more.shape == (wanted, 9, 9)
    assert torch.allclose(probe.probe_power(more), probe.probe_power(modes))
    kept = (1 - power * (wanted - count)) ** 0.5
    assert torch.allclose(more[:count], kept * modes)
    new = more[count:].flatten(1)
    assert torch.allclose((new @ new.conj().mT).real, power * probe.probe_power(modes) * torch.eye(len(new)).double())
    assert torch.allclose(new @ modes.flatten(1).conj().mT, torch.zeros(len(new), count).to(new.dtype), atol=1e-9)


@law
@given(st.sampled_from([40, 41]), st.floats(2, 5), st.floats(-3, 3), st.floats(-3, 3), st.floats(0.1, 9))
def test_the_radius_of_a_gaussian(n: int, width: float, y: float, x: float, factor: float) -> None:
    light = factor * gaussian(n, width, y=y, x=x)[None]
    assert probe.probe_radius(light) == pytest.approx(width / 2**0.5, rel=1e-4)
    assert torch.allclose(probe.illumination(light), light[0].abs().square())
    power = factor**2 * math.pi * width**2 / 2
    assert float(probe.probe_power(light)) == pytest.approx(power, rel=1e-6)


@law
@given(st.sampled_from([32, 33]), st.floats(8, 20), st.floats(0.3, 1.5), seeds)
def test_a_masked_probe_is_a_soft_disk_of_it(n: int, diameter: float, sigma: float, seed: int) -> None:
    mask = probe.circular_mask(n, diameter=diameter, sigma=sigma)
    middle = mask[n // 2, n // 2 :]
    radius = torch.arange(len(middle), dtype=torch.float32)
    expected = torch.special.ndtr((diameter / 2 - radius) / sigma)
    assert torch.allclose(middle, expected, atol=1e-5)
    assert torch.allclose(mask, mask.mT) and torch.allclose(mask[1:, 1:] if n % 2 == 0 else mask, _turned(mask, n))
    modes = random_wave(2, n, n, seed=seed)
    assert torch.equal(probe.masked_probe(modes, diameter=diameter, sigma=sigma), modes * mask.double())


def _turned(mask: torch.Tensor, n: int) -> torch.Tensor:
    return (mask[1:, 1:] if n % 2 == 0 else mask).flip((0, 1))


@law
@given(st.sampled_from([15, 16]), st.floats(0, 0.8), seeds)
def test_a_guess_out_of_focus_makes_the_same_pattern(n: int, width: float, seed: int) -> None:
    mean = 10 + 90 * random_real(n, n, seed=seed)
    guess = probe.guess_probe(mean, width=width)
    assert torch.allclose(optics.detector_intensity(optics.far_field(guess)), mean)
    assert float(probe.probe_power(guess)) == pytest.approx(float(mean.sum()))


@law
@given(st.floats(0.06, 0.1), st.floats(0, 0.35))
def test_a_guess_from_a_gaussian_pattern_is_the_gaussian_of_this_focus(aperture: float, width: float) -> None:
    n = 64
    guess = probe.guess_probe(gaussian(n, aperture * n).real.square(), width=width)
    wide = math.hypot(1 / (math.pi * aperture), width * n / 2)  # diffraction, and the cone of light
    expected = gaussian(n, wide).real.square()
    assert torch.allclose(guess[0].abs().square() / guess.abs().square().max(), expected, atol=1e-3)
