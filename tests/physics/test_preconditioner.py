"""Slow phase waves: how visible they are, and that they are accelerated by what they lack."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from physics_cases import gaussian, law, random_real, random_wave, seeds

from ptycho_torch.physics.low_pass import low_pass
from ptycho_torch.physics.preconditioner import (
    LARGEST,
    WIDEN,
    Acceleration,
    accelerate_slow_phase,
    slow_phase_acceleration,
    spot_width_px,
)
from ptycho_torch.physics.propagation import NearField
from ptycho_torch.physics.sweep import likelihood_gradient
from ptycho_torch.simulation import make_probe

N, SHAPE = 64, (128, 160)


def probe() -> torch.Tensor:
    return torch.as_tensor(make_probe("defocus", n=N), dtype=torch.complex64) * 300


def visibility(wave_number: float) -> float:
    """Curvature of the amplitude misfit along a phase wave on a flat object, over the energy that the wave moves."""
    light = probe()
    corners = torch.tensor([[y, x] for y in range(0, 64, 5) for x in range(0, 96, 5)])
    flat = torch.ones(SHAPE, dtype=torch.complex64)
    far = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(light), norm="ortho"))
    amplitude = far.abs().square().sum(0).sqrt().expand(len(corners), -1, -1)
    valid = torch.ones(N, N, dtype=torch.bool)
    x = torch.arange(SHAPE[1]) - SHAPE[1] / 2
    wave = 1j * torch.cos(wave_number * x).expand(SHAPE).to(torch.complex64)
    flat.requires_grad_()
    direction = likelihood_gradient(flat, light[None], corners, amplitude, valid)
    (curved,) = torch.autograd.grad(direction, flat, wave)
    total = torch.zeros(SHAPE)
    for y, x0 in corners.tolist():
        total[y : y + N, x0 : x0 + N] += light.abs().square().sum(0)
    return -float((wave.conj() * curved).real.sum() / (total * wave.abs().square()).sum())


def test_a_long_phase_wave_is_as_visible_as_the_spot_is_wide() -> None:
    width = spot_width_px(probe())
    for length in (60, 90):
        q = 2 * math.pi / length
        assert visibility(q) == pytest.approx((q * width) ** 2, rel=0.5)
    assert visibility(2 * math.pi / 6) == pytest.approx(0.5, abs=0.15)


def test_the_acceleration_is_the_visibility_that_is_missing() -> None:
    acceleration = slow_phase_acceleration(probe(), SHAPE)
    assert acceleration.gain.shape == (128, 81)
    assert float(acceleration.gain[0, 0]) == pytest.approx(LARGEST - 1)
    assert float(acceleration.gain[64, 80]) < 0.1
    q = 2 * math.pi * 20 / 160
    cut = 1 / (math.sqrt(2) * spot_width_px(probe()) * WIDEN)
    assert float(acceleration.gain[0, 20]) == pytest.approx(1 / (q**2 / (q**2 + cut**2) + 1 / LARGEST) - 1, rel=1e-4)


def test_only_slow_phase_is_accelerated() -> None:
    generator = torch.Generator().manual_seed(0)
    obj = torch.polar(0.5 + torch.rand(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator))
    acceleration = slow_phase_acceleration(probe(), SHAPE)
    growth = obj * torch.rand(SHAPE, generator=generator)
    assert torch.allclose(accelerate_slow_phase(growth, obj, acceleration), growth, atol=1e-5)
    flat = torch.ones(SHAPE, dtype=torch.complex64)
    y = torch.arange(SHAPE[0])[:, None].expand(SHAPE)
    for waves, expected in ((1, float(acceleration.gain[1, 0]) + 1), (50, float(acceleration.gain[50, 0]) + 1)):
        turn = 0.01j * torch.sin(2 * math.pi * waves * y / SHAPE[0]).to(torch.complex64)
        accelerated = accelerate_slow_phase(turn, flat, acceleration)
        ratio = float((accelerated * turn.conj()).real.sum() / turn.abs().square().sum())
        assert ratio == pytest.approx(1 + (expected - 1) / 1.05, rel=1e-3)


@pytest.mark.parametrize("waves", [(0, 0), (3, -2), (30, 40)])
def test_the_low_pass_of_a_wave_is_what_a_gaussian_leaves_of_it(waves: tuple[int, int]) -> None:
    y, x = (torch.arange(side) * number / side for side, number in zip(SHAPE, waves, strict=True))
    wave = torch.polar(torch.ones(SHAPE), 2 * math.pi * (y[:, None] + x))
    turns = (waves[0] / SHAPE[0]) ** 2 + (waves[1] / SHAPE[1]) ** 2
    left = math.exp(-2 * (math.pi * 2) ** 2 * turns)  # 2 px
    assert torch.allclose(low_pass(wave), left * wave, atol=1e-5)


@law
@given(st.integers(8, 15), st.integers(8, 15), st.floats(-3, 3), seeds)
def test_a_lift_leaves_amplitudes_alone_and_knows_no_global_phase(
    height: int, width: int, turn: float, seed: int
) -> None:
    obj, direction, other = random_wave(3, height, width, seed=seed)
    lift = Acceleration(9 * random_real(height, width // 2 + 1, seed=seed), 1.0)
    lifted = accelerate_slow_phase(direction, obj, lift)
    added = (obj.conj() * (lifted - direction)).real
    assert torch.allclose(added, torch.zeros_like(added), atol=1e-9)
    real = accelerate_slow_phase(direction - 2.5 * other, obj, lift)
    assert torch.allclose(real, lifted - 2.5 * accelerate_slow_phase(other, obj, lift))
    turned = complex(math.cos(turn), math.sin(turn))
    assert torch.allclose(accelerate_slow_phase(turned * direction, turned * obj, lift), turned * lifted)
    assert torch.allclose(accelerate_slow_phase(direction, obj, lift._replace(gain=0 * lift.gain)), direction)
    assert torch.allclose(accelerate_slow_phase(other.real * obj, obj, lift), other.real * obj)


@law
@given(st.sampled_from([47, 48]), st.floats(3.5, 6), st.floats(-3, 3), st.floats(-3, 3), st.floats(0.2, 5))
def test_the_spot_of_a_gaussian_is_itself_in_and_out_of_focus(
    n: int, width: float, y: float, x: float, fresnel_number: float
) -> None:
    light = gaussian(n, width, y=y, x=x)[None]
    assert spot_width_px(light) == pytest.approx(width / 2, rel=1e-3)
    assert spot_width_px(NearField(fresnel_number).forward(light)) == pytest.approx(width / 2, rel=1e-3)
    assert spot_width_px(7j * light) == pytest.approx(spot_width_px(light))


@law
@given(st.integers(20, 41), st.integers(20, 41))
def test_the_lift_falls_from_the_slowest_wave_to_the_finest(height: int, width: int) -> None:
    lift = slow_phase_acceleration(gaussian(16, 4.0)[None], (height, width)).gain
    assert lift.shape == (height, width // 2 + 1)
    assert float(lift.max()) == float(lift[0, 0]) == pytest.approx(LARGEST - 1)
    assert float(lift.min()) >= 0
    assert bool((lift.diff(dim=1) <= 0).all()) and bool((lift[: height // 2 + 1].diff(dim=0) <= 0).all())
    assert torch.allclose(lift[1:], lift[1:].flip(0))
