"""Laws of the slow phase that is read from the patterns' shifts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from physics_cases import few, gaussian, law, random_real, seeds
from scipy import ndimage

from ptycho_torch.physics.optics import detector_intensity, exit_wave, far_field
from ptycho_torch.physics.patches import extract_whole
from ptycho_torch.physics.phase_gradient import pattern_shifts, shift_sums, slow_phase, unexplained
from ptycho_torch.physics.probe import illumination, shift_probe
from ptycho_torch.physics.sweep import likelihood_gradient
from ptycho_torch.simulation.probes import make_probe

N = 32


def a_pattern(y: float, x: float, width: float = 2.0) -> torch.Tensor:
    """An oblong Gaussian of intensity around this place, as amplitude."""
    reach = torch.arange(N, dtype=torch.float64) - N // 2
    exponent = (reach[:, None] - y) ** 2 / (2 * width**2) + (reach[None, :] - x) ** 2 / (2 * (2 * width) ** 2)
    return (1e4 * torch.exp(-exponent))[None].sqrt()


@pytest.mark.parametrize("shift", [(0.2, -0.1), (-0.1, 0.3)])
def test_both_estimates_find_a_small_shift(shift: tuple[float, float]) -> None:
    valid = torch.ones(N, N, dtype=torch.float64)
    near, far = pattern_shifts(shift_sums(a_pattern(1, -2), a_pattern(1 + shift[0], -2 + shift[1]), valid))
    assert near[0].tolist() == pytest.approx(shift, rel=0.15)
    assert far[0].tolist() == pytest.approx(shift, abs=0.01)


def test_the_centroid_finds_a_large_shift_and_masked_pixels_do_not_speak() -> None:
    valid = torch.ones(N, N, dtype=torch.float64)
    valid[15, :] = 0
    measured, predicted = a_pattern(0, 3, 2), a_pattern(0, -1, 2)
    _, far = pattern_shifts(shift_sums(predicted, measured, valid))
    assert far[0].tolist() == pytest.approx((0, 4), abs=0.2)
    spoiled = measured.clone()
    spoiled[:, 15] = 1e6
    assert torch.equal(shift_sums(predicted, measured, valid), shift_sums(predicted, spoiled, valid))


def a_scan(phase: torch.Tensor, *, photons: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """An object with this phase and some texture; probe, sub-pixel positions and the patterns' amplitudes."""
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(size=tuple(phase.shape)), 1.5)
    amplitude = 0.8 + 0.1 * texture / texture.std()
    obj = torch.polar(torch.as_tensor(np.clip(amplitude, 0.3, 1.2)), phase)
    probe = torch.as_tensor(make_probe("defocus", n=N, modes=1), dtype=torch.complex128)
    probe = probe * math.sqrt(photons / float(illumination(probe).sum()))
    reach = [np.arange(N // 2, side - N // 2, 4) for side in phase.shape]
    grid = np.stack(np.meshgrid(*reach, indexing="ij"), -1).reshape(-1, 2) + rng.uniform(-0.49, 0.49, 2)
    return obj, probe, torch.as_tensor(grid), _amplitudes(obj, probe, torch.as_tensor(grid))


def _amplitudes(obj: torch.Tensor, probe: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    whole = torch.floor(positions + 0.5).to(torch.int64)
    waves = exit_wave(extract_whole(obj, whole - N // 2, N), shift_probe(probe, positions - whole))
    return detector_intensity(far_field(waves)).sqrt()


@pytest.mark.parametrize("shape", [(96, 128), (128, 72)])
@pytest.mark.parametrize("strength", [0.1, 3.0])
def test_a_slow_phase_is_found_at_once_on_an_asymmetric_canvas(shape: tuple[int, int], strength: float) -> None:
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, side, dtype=torch.float64) for side in shape), indexing="ij")
    phase = strength * (0.7 * x**2 - y + 0.4 * x * y)
    obj, probe, positions, measured = a_scan(phase, photons=1e6)
    guess = obj.abs().to(obj.dtype)  # all but the slow phase
    sums = shift_sums(_amplitudes(guess, probe, positions), measured, torch.ones(N, N, dtype=torch.float64))
    found = slow_phase(sums, positions, probe, shape)
    lit = (slice(N // 2, shape[0] - N // 2), slice(N // 2, shape[1] - N // 2))
    error, whole = (found - phase)[lit], phase[lit]
    assert float((error - error.mean()).std() / whole.std()) < 0.12


def test_the_truth_is_left_alone_and_a_change_of_flux_changes_nothing() -> None:
    phase = torch.linspace(-1, 1, 96, dtype=torch.float64).square().expand(96, 96)
    obj, probe, positions, measured = a_scan(phase, photons=1e5)
    ones = torch.ones(N, N, dtype=torch.float64)
    assert float(slow_phase(shift_sums(measured, measured, ones), positions, probe, (96, 96)).abs().max()) < 1e-9
    predicted = _amplitudes(obj.abs().to(obj.dtype), probe, positions)
    dim, bright = (
        slow_phase(shift_sums(factor * predicted, factor * measured, ones), positions, factor * probe, (96, 96))
        for factor in (0.1, 10)
    )
    assert torch.allclose(dim, bright, rtol=1e-6, atol=1e-6)


def test_centroids_that_only_noise_moves_are_not_believed() -> None:
    _, probe, positions, measured = a_scan(torch.zeros(96, 96, dtype=torch.float64), photons=300)
    noisy = torch.poisson(measured.square(), generator=torch.Generator().manual_seed(0)).sqrt()
    sums = shift_sums(measured, noisy, torch.ones(N, N, dtype=torch.float64))
    near, far = pattern_shifts(sums)
    assert float(far.std()) > 1.3 * float(near.std())
    trusting = sums.clone()
    trusting[:, 0:9] = 0
    trusting[:, 4] = trusting[:, 8] = 1  # no shift is seen in the amplitudes
    found = slow_phase(trusting, positions, probe, (96, 96))
    assert float(found.abs().max()) < 0.1


def test_a_sweep_sees_the_shifts_in_passing() -> None:
    obj, probe, positions, measured = a_scan(torch.zeros(64, 64, dtype=torch.float64), photons=1e5)
    whole = torch.floor(positions + 0.5).to(torch.int64)
    probes, valid, seen = shift_probe(probe, positions - whole), torch.ones(N, N, dtype=torch.bool), []
    shifted = torch.roll(measured, 2, -1)
    quiet = likelihood_gradient(obj, probes, whole - N // 2, shifted, valid)
    assert torch.equal(quiet, likelihood_gradient(obj, probes, whole - N // 2, shifted, valid, shifts=seen))
    _, far = pattern_shifts(torch.cat(seen))
    assert torch.allclose(far[:, 1], torch.full((len(far),), 2.0, dtype=torch.float64), atol=0.1)
    assert torch.allclose(far[:, 0], torch.zeros(len(far), dtype=torch.float64), atol=0.01)


def sums_of(shifts: torch.Tensor, *, lean: float = 0.0) -> torch.Tensor:
    """The `shift_sums` of patterns that lie by exactly these shifts from the predicted ones; `lean` is H_yx."""
    there = torch.zeros(len(shifts), 2, 2, dtype=torch.float64)
    there[:, 0, 0], there[:, 1, 0], there[:, 0, 1] = 1, shifts[:, 0], shifts[:, 1]
    here = torch.zeros_like(there)
    here[:, 0, 0] = 1
    products = torch.eye(3, dtype=torch.float64).repeat(len(shifts), 1, 1)
    products[:, 1, 2] = products[:, 2, 1] = lean
    products[:, 0, 1:] = products[:, 1:, 0] = shifts @ products[0, 1:, 1:] / 2
    return torch.cat([each.flatten(1) for each in (products, there, here)], 1)


@law
@given(seeds)
def test_exact_shifts_are_read_as_they_are(seed: int) -> None:
    shifts = 3 * random_real(5, 2, seed=seed) - 1.5
    for estimate in pattern_shifts(sums_of(shifts, lean=float(shifts[0, 0]) / 2)):
        assert torch.allclose(estimate, shifts)


@law
@given(st.integers(-4, 4), st.integers(-4, 4), st.floats(0.1, 9), st.sampled_from([31, 32]))
def test_a_pattern_moved_by_whole_pixels_has_moved_its_centroid_so_far(dy: int, dx: int, flux: float, n: int) -> None:
    predicted = a_pattern(1, -2, 1.2)[:, :n, :n]
    measured = flux * torch.roll(predicted, (dy, dx), (-2, -1))
    valid = torch.ones(n, n, dtype=torch.float64)
    _, far = pattern_shifts(shift_sums(predicted, measured, valid))
    assert far[0].tolist() == pytest.approx((dy, dx), abs=2e-3)
    left = unexplained(shift_sums(predicted, flux * predicted, valid))
    assert float(left) == pytest.approx((1 - 1 / flux) ** 2, abs=1e-6)
    near, _ = pattern_shifts(shift_sums(predicted, predicted.clone(), valid))
    assert torch.equal(near, torch.zeros_like(near))


@few
@given(st.integers(-9, 9), st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([(96, 128), (120, 88)]))
def test_a_quadratic_phase_is_recovered_from_its_exact_shifts(
    yy: int, yx: int, xx: int, shape: tuple[int, int]
) -> None:
    bend = 2e-4 * torch.tensor([[yy, yx], [yx, xx]], dtype=torch.float64)
    middle = torch.tensor([side / 2 for side in shape], dtype=torch.float64)
    positions = torch.cartesian_prod(*(torch.arange(8.0, side - 7, 4) for side in shape)).double()
    shifts = (positions - middle) @ bend * N / (2 * math.pi)
    found = slow_phase(sums_of(shifts), positions, gaussian(N, 4.0)[None], shape)
    rows, columns = (torch.arange(16.0, side - 16).double() - side / 2 for side in shape)
    y, x = (each.flatten() for each in torch.meshgrid(rows, columns, indexing="ij"))
    design = torch.stack([y.square() / 2, y * x, x.square() / 2, y, x, torch.ones_like(y)], -1)
    lit = found[16:-16, 16:-16].flatten()
    fit = torch.linalg.lstsq(design, lit).solution
    most = 2e-4 * max(abs(yy), abs(yx), abs(xx))
    assert fit[:3].tolist() == pytest.approx([float(bend[0, 0]), float(bend[0, 1]), float(bend[1, 1])], abs=0.06 * most)
    assert fit[3:5].tolist() == pytest.approx([0, 0], abs=1.2 * most)  # the place of a cell is known to about a pixel
    assert float((lit - design @ fit).std()) <= 8 * most
