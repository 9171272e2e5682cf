"""The laws that the physics keeps, on odd and even sizes, complex and asymmetric inputs, in double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.physics import likelihood, optics, patches, probe, sweep

sizes = st.integers(4, 13)
seeds = st.integers(0, 2**31 - 1)
law = settings(max_examples=25, deadline=None)


def random_wave(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


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


@law
@given(seeds)
def test_consistent_patches_pass_the_overlap_constraint_unchanged(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    obj = random_wave(24, 28, seed=seed)
    positions = torch.stack(
        [torch.randint(3, 20, (9,), generator=rng), torch.randint(3, 24, (9,), generator=rng)], 1
    ).double()
    cut = patches.extract(obj, positions, 6)
    weight = 0.1 + torch.rand(6, 6, dtype=torch.float64, generator=rng)
    merged = patches.merge_overlaps(cut, positions, (24, 28), weight)
    assert torch.allclose(patches.extract(merged, positions, 6), cut)


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


@pytest.mark.parametrize("background", [None, 0.02])
@pytest.mark.parametrize("modes", [1, 3])
def test_the_likelihood_gradient_is_the_derivative_of_the_misfit(modes: int, background: float | None) -> None:
    obj = random_wave(20, 22, seed=4).requires_grad_()
    light = random_wave(5, modes, 8, 8, seed=5)
    corners = torch.tensor([[0, 0], [3, 4], [5, 9], [12, 14], [7, 2]])
    amplitude = torch.rand(5, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(6)) + 0.5
    valid = torch.ones(8, 8, dtype=torch.bool)
    valid[2, 3] = valid[5, 0] = False
    cut = patches.extract_whole(obj, corners, 8)
    predicted = optics.detector_intensity(optics.far_field(optics.exit_wave(cut, light)))
    mean = amplitude.square().mean((-2, -1), keepdim=True)
    if background is None:
        each = 0.5 * predicted - amplitude * (predicted + sweep.SOFTENING * mean).sqrt()
    else:
        dark = (sweep.SOFTENING + background) * mean
        each = 0.25 * (predicted - (amplitude.square() + dark) * (predicted + dark).log())
    (down,) = torch.autograd.grad(torch.where(valid, each, 0.0).sum(), obj)
    given = None if background is None else torch.tensor(background, dtype=torch.float64)
    direction = sweep.likelihood_gradient(obj.detach(), light, corners, amplitude, valid, background=given)
    assert torch.allclose(direction, -down)


@pytest.mark.parametrize("background", [None, 0.02])
@pytest.mark.parametrize("modes", [1, 2])
def test_the_derivative_of_the_likelihood_gradient_is_right(modes: int, background: float | None) -> None:
    obj = random_wave(12, 12, seed=7).requires_grad_()
    light = random_wave(3, modes, 6, 6, seed=8)
    corners = torch.tensor([[0, 0], [3, 4], [6, 5]])
    amplitude = torch.rand(3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) + 0.5
    valid = torch.ones(6, 6, dtype=torch.bool)
    valid[1, 2] = False
    given = None if background is None else torch.tensor(background, dtype=torch.float64)

    def gradient(wave: torch.Tensor) -> torch.Tensor:
        return sweep.likelihood_gradient(wave, light, corners, amplitude, valid, background=given)

    assert torch.autograd.gradcheck(gradient, (obj,))


@law
@given(seeds)
def test_the_likelihood_is_least_at_the_truth_and_deaf_to_masked_pixels(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    counts = 5 * torch.rand(3, 6, 6, dtype=torch.float64, generator=rng)
    counts[0, 0, 0] = 0
    valid = torch.ones(6, 6, dtype=torch.bool)
    valid[2, 4] = False
    assert float(likelihood.poisson_nll(counts, counts, valid)) == pytest.approx(0, abs=1e-6)
    for factor in (0.7, 0.99, 1.01, 1.5):
        assert likelihood.poisson_nll(factor * counts, counts, valid) > 1e-7
    spoiled = counts.clone()
    spoiled[:, 2, 4] = 1e6
    for loss in likelihood.LIKELIHOODS.values():
        assert torch.equal(
            loss(counts * 1.2, counts, valid), loss(counts * 1.2, torch.where(valid, counts, spoiled), valid)
        )
    assert torch.equal(likelihood.misfit(counts, spoiled, valid)[0], torch.zeros(3, dtype=torch.float64))


def test_misfit_and_likelihood_have_closed_forms() -> None:
    amplitude = 1 + torch.rand(3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(8, 8, dtype=torch.bool)
    valid[2, 3] = False
    predicted = amplitude * torch.tensor([1.1, 0.8, 1.0], dtype=torch.float64)[:, None, None]
    predicted[:, 2, 3] = 1e6
    error, power = likelihood.misfit(predicted.square(), amplitude.square(), valid)
    assert torch.allclose((error / power).sqrt(), torch.tensor([0.1, 0.2, 0], dtype=torch.float64))
    three, two = torch.full((2, 8, 8), 3.0), torch.full((2, 8, 8), 2.0)
    assert float(likelihood.poisson_nll(two, three, valid)) == pytest.approx(3 * math.log(1.5) - 1)


def test_twice_the_likelihood_of_poisson_counts_is_one() -> None:
    rng = torch.Generator().manual_seed(0)
    mean = 50 + 450 * torch.rand(10, 32, 32, generator=rng)
    counts = torch.poisson(mean, generator=rng)
    valid = torch.ones(32, 32, dtype=torch.bool)
    assert 2 * float(likelihood.poisson_nll(mean, counts, valid)) == pytest.approx(1, abs=0.05)


def test_total_variation_of_a_step_is_its_height() -> None:
    flat = torch.ones(6, 9, dtype=torch.complex128)
    step = flat.clone()
    step[:, 5:] += 0.5
    assert float(likelihood.total_variation(flat)) == pytest.approx(0, abs=1e-5)
    assert float(likelihood.total_variation(step)) == pytest.approx(0.5 / 8, abs=1e-5)


def test_the_guessed_probe_makes_the_mean_pattern() -> None:
    mean = torch.rand(16, 16, generator=torch.Generator().manual_seed(1)) * 100
    guess = probe.guess_probe(mean)
    assert guess.shape == (1, 16, 16)
    assert torch.allclose(optics.detector_intensity(optics.far_field(guess)), mean, rtol=1e-4, atol=1e-3)


def test_object_pixel_of_a_known_beamline() -> None:
    wavelength = optics.wavelength_of_photon_m(8800.0)
    assert wavelength == pytest.approx(1.4089e-10, rel=1e-4)
    assert optics.object_pixel_size_m(wavelength, 1.0, 128, 75e-6) == pytest.approx(1.4676e-8, rel=1e-4)
