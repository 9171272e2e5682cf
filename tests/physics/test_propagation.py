"""Laws that every propagator keeps, and the closed forms that tell each one from any other unitary map."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from physics_cases import PROPAGATORS, gaussian, inner, law, random_real, random_wave, seeds, sizes

from ptycho_torch.physics.optics import far_field, inverse_far_field
from ptycho_torch.physics.propagation import FAR_FIELD, NearField, Propagator, near_field

every = pytest.mark.parametrize("propagator", PROPAGATORS.values(), ids=PROPAGATORS.keys())
fresnel_numbers = st.floats(0.02, 50) | st.floats(-50, -0.02)


@every
@law
@given(sizes, sizes, seeds)
def test_no_photon_is_lost(propagator: Propagator, height: int, width: int, seed: int) -> None:
    wave = random_wave(2, height, width, seed=seed)
    for there in (propagator.forward, propagator.adjoint, propagator.apply, propagator.apply_adjoint):
        assert torch.allclose(there(wave).abs().square().sum((-2, -1)), wave.abs().square().sum((-2, -1)))


@every
@law
@given(sizes, sizes, seeds)
def test_the_adjoint_is_the_adjoint_and_the_inverse(propagator: Propagator, height: int, width: int, seed: int) -> None:
    wave, other = random_wave(height, width, seed=seed), random_wave(height, width, seed=seed + 1)
    assert torch.allclose(inner(other, propagator.forward(wave)), inner(propagator.adjoint(other), wave))
    assert torch.allclose(propagator.adjoint(propagator.forward(wave)), wave)
    assert torch.allclose(propagator.forward(propagator.adjoint(wave)), wave)
    assert torch.allclose(inner(other, propagator.apply(wave)), inner(propagator.apply_adjoint(other), wave))
    assert torch.allclose(propagator.apply_adjoint(propagator.apply(wave)), wave)


@every
@law
@given(sizes, sizes, seeds)
def test_waves_superpose_and_a_batch_is_its_members(propagator: Propagator, height: int, width: int, seed: int) -> None:
    waves = random_wave(2, 3, height, width, seed=seed)
    together = propagator.forward(waves)
    assert torch.allclose(propagator.forward((1 - 2j) * waves[0] + waves[1]), (1 - 2j) * together[0] + together[1])
    assert torch.allclose(propagator.forward(waves[1, 2]), together[1, 2])
    assert together.dtype == torch.complex128 and propagator.forward(waves.to(torch.complex64)).dtype == torch.complex64


@every
@law
@given(sizes, sizes, seeds)
def test_a_prepared_probe_is_the_probe_times_a_sign(propagator: Propagator, height: int, width: int, seed: int) -> None:
    probe = random_wave(3, height, width, seed=seed)
    prepared = propagator.prepared(probe)
    assert torch.equal(propagator.prepared(prepared), probe)
    assert torch.equal(prepared.abs(), probe.abs())
    assert torch.allclose((prepared * probe.conj()).imag, torch.zeros_like(probe.real))


@every
@law
@given(sizes, sizes, seeds)
def test_the_cheaper_form_is_the_same_propagation(propagator: Propagator, height: int, width: int, seed: int) -> None:
    probe, obj = random_wave(height, width, seed=seed), random_wave(height, width, seed=seed + 1)
    weight = random_real(height, width, seed=seed + 2) - 0.5
    prepared, full = propagator.prepared(probe), propagator.forward(obj * probe)
    cheap = propagator.apply(obj * prepared)
    assert torch.allclose(cheap.abs(), full.abs())
    back = prepared.conj() * propagator.apply_adjoint(weight * cheap)
    assert torch.allclose(back, probe.conj() * propagator.adjoint(weight * full))


@every
@pytest.mark.parametrize("shape", [(6, 6), (7, 7), (5, 8)])
def test_autograd_pulls_back_with_the_adjoint(propagator: Propagator, shape: tuple[int, int]) -> None:
    wave, there = random_wave(*shape, seed=1).requires_grad_(), random_wave(*shape, seed=2)
    (pulled,) = torch.autograd.grad(inner(there, propagator.forward(wave)).real, wave)
    assert torch.allclose(pulled, propagator.adjoint(there))
    assert torch.autograd.gradcheck(propagator.forward, (wave,))
    assert torch.autograd.gradcheck(propagator.apply, (wave,))


@every
def test_a_ramp_moves_the_pattern_exactly_where_the_propagator_says_so(propagator: Propagator) -> None:
    wave = random_wave(12, 12, seed=3)
    ramp = torch.exp(2j * torch.pi * 2 * torch.arange(12, dtype=torch.float64) / 12)
    moved, still = (propagator.forward(each).abs() for each in (ramp * wave, wave))
    assert torch.allclose(moved, torch.roll(still, 2, -1)) is propagator.shifts_with_phase_ramps


@law
@given(sizes, sizes, st.integers(-3, 3), st.integers(-3, 3))
def test_a_point_makes_a_plane_wave_on_a_far_detector(height: int, width: int, dy: int, dx: int) -> None:
    point = torch.zeros(height, width, dtype=torch.complex128)
    point[(height // 2 + dy) % height, (width // 2 + dx) % width] = 1
    y = (torch.arange(height, dtype=torch.float64) - height // 2) / height
    x = (torch.arange(width, dtype=torch.float64) - width // 2) / width
    plane = torch.exp(-2j * torch.pi * (y[:, None] * dy + x[None, :] * dx)) / math.sqrt(height * width)
    assert torch.allclose(FAR_FIELD.forward(point), plane)


@law
@given(st.sampled_from([56, 57]), st.floats(3, 5), st.floats(-3, 3), st.floats(-3, 3))
def test_the_far_field_of_a_gaussian_is_a_gaussian(n: int, width: float, y: float, x: float) -> None:
    k = torch.arange(n, dtype=torch.float64) - n // 2
    envelope = math.pi * width**2 / n * torch.exp(-((math.pi * width / n) ** 2) * (k[:, None] ** 2 + k[None, :] ** 2))
    turn = torch.exp(-2j * torch.pi * (k[:, None] * y + k[None, :] * x) / n)
    wave = gaussian(n, width, y=y, x=x)
    assert torch.allclose(FAR_FIELD.forward(wave), envelope * turn, atol=1e-7)
    assert torch.allclose(far_field(wave), FAR_FIELD.forward(wave))
    assert torch.allclose(inverse_far_field(wave), FAR_FIELD.adjoint(wave))


@law
@given(st.sampled_from([96, 97]), st.floats(0.1, 1.5), st.booleans(), st.floats(-4, 4), st.floats(-4, 4))
def test_a_gaussian_beam_widens_and_bends_as_the_textbook_says(
    n: int, distance: float, backwards: bool, y: float, x: float
) -> None:
    wavelength_m, pixel_m, waist = 1e-10, 50e-9, 4.5
    rayleigh_m = math.pi * (waist * pixel_m) ** 2 / wavelength_m
    z = (-1 if backwards else 1) * distance * rayleigh_m
    wide = waist * math.sqrt(1 + (z / rayleigh_m) ** 2)
    bend_m = z * (1 + (rayleigh_m / z) ** 2)
    reach = torch.arange(n, dtype=torch.float64) - n // 2
    squared = (reach[:, None] - y) ** 2 + (reach[None, :] - x) ** 2
    phase = math.pi * pixel_m**2 * squared / (wavelength_m * bend_m) - math.atan(z / rayleigh_m)
    beam = torch.polar(waist / wide * torch.exp(-squared / wide**2), phase)
    there = near_field(wavelength_m=wavelength_m, distance_m=z, pixel_m=pixel_m).forward(gaussian(n, waist, y=y, x=x))
    assert torch.allclose(there, beam, atol=1e-8)


@law
@given(sizes, sizes, fresnel_numbers, st.integers(-2, 2), st.integers(-2, 2))
def test_a_single_fourier_component_gets_its_phase(
    height: int, width: int, fresnel_number: float, down: int, right: int
) -> None:
    y, x = torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64)
    wave = torch.exp(2j * torch.pi * (down * y[:, None] / height + right * x[None, :] / width))
    angle = -math.pi * ((down / height) ** 2 + (right / width) ** 2) / fresnel_number
    expected = wave * complex(math.cos(angle), math.sin(angle))  # a plane wave, (0, 0), stays as it is
    assert torch.allclose(NearField(fresnel_number).forward(wave), expected)


@law
@given(sizes, sizes, fresnel_numbers, fresnel_numbers, seeds)
def test_distances_add_and_the_way_back_undoes(height: int, width: int, one: float, two: float, seed: int) -> None:
    wave = random_wave(height, width, seed=seed)
    there = NearField(one).forward(wave)
    assert torch.allclose(NearField(-one).forward(there), wave)
    if abs(total := 1 / one + 1 / two) > 1e-6:
        assert torch.allclose(NearField(two).forward(there), NearField(1 / total).forward(wave), atol=1e-7)


@pytest.mark.parametrize(("period", "repeats"), [(4, (3, 3)), (5, (2, 3)), (6, (2, 2))])
def test_a_periodic_object_images_itself_at_the_talbot_distance(period: int, repeats: tuple[int, int]) -> None:
    wavelength_m, pixel_m = 0.7e-10, 40e-9
    wave = random_wave(period, period, seed=period).repeat(*repeats)
    talbot_m = 2 * (period * pixel_m) ** 2 / wavelength_m
    there = near_field(wavelength_m=wavelength_m, distance_m=talbot_m, pixel_m=pixel_m).forward(wave)
    assert torch.allclose(there, wave)
    if period % 2 == 0:  # half way there the image is moved by half a period
        half = near_field(wavelength_m=wavelength_m, distance_m=talbot_m / 2, pixel_m=pixel_m).forward(wave)
        assert torch.allclose(half, torch.roll(wave, (period // 2, period // 2), (-2, -1)))
        assert not torch.allclose(half, wave)
