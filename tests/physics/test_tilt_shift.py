"""How far a tilt of the exit wave moves its pattern, and what the slow-phase preconditioner makes of it."""

from __future__ import annotations

import itertools

import pytest
import torch

from ptycho_torch.physics.preconditioner import slow_phase_lift, spot_width_px
from ptycho_torch.physics.propagation import FAR_FIELD, NearField, Propagator
from ptycho_torch.simulation import make_probe

N = 24


@pytest.mark.parametrize(("propagator", "pixels"), [(FAR_FIELD, 1), (NearField(1 / N), 1), (NearField(1 / (3 * N)), 3)])
@pytest.mark.parametrize("axis", [0, 1])
def test_one_wave_over_the_window_moves_the_pattern_by_tilt_shift_px(
    propagator: Propagator, pixels: int, axis: int
) -> None:
    wave = torch.randn(N, N, dtype=torch.complex128, generator=torch.Generator().manual_seed(3))
    line = 2 * torch.pi * torch.arange(N, dtype=torch.float64) / N
    ramp = torch.polar(torch.ones_like(line), line)
    tilted = wave * (ramp[:, None] if axis == 0 else ramp[None, :])
    assert propagator.tilt_shift_px(N) == pytest.approx(pixels)
    moved = propagator.forward(wave).abs().roll(pixels, axis)
    torch.testing.assert_close(propagator.forward(tilted).abs(), moved)


@pytest.mark.parametrize("fresnel_number", [0.05, 0.2])
def test_the_spot_width_says_how_strongly_a_tilt_changes_the_amplitude(fresnel_number: float) -> None:
    """In the near field as in the far field: ‖∂|Ψ|/∂q‖² = 2 a²·‖Ψ‖² for a tilt q [rad/px] in y and x."""
    near, probe = NearField(fresnel_number), torch.from_numpy(make_probe("full-field", n=48))
    k = 2 * torch.pi * torch.fft.fftfreq(48, dtype=torch.float64)
    amplitude = near.forward(probe)[0].abs()
    spectrum = torch.fft.fft2(amplitude)
    slopes = [torch.fft.ifft2(1j * each * spectrum).abs().square().sum() for each in (k[:, None], k[None, :])]
    per_tilt = near.tilt_shift_px(48) * 48 / (2 * torch.pi)
    expected = (per_tilt**2 * sum(slopes) / (2 * amplitude.square().sum())).sqrt()
    assert spot_width_px(probe, near) == pytest.approx(float(expected), rel=1e-6)


def test_the_farther_the_detector_the_less_is_lifted() -> None:
    probe = torch.from_numpy(make_probe("full-field", n=32))
    lifts = [slow_phase_lift(probe, (40, 48), propagator=NearField(number)) for number in (0.05, 0.1, 0.3)]
    for farther, nearer in itertools.pairwise(lifts):
        assert (farther <= nearer).all() and farther.sum() < nearer.sum()
        assert float(nearer[0, 0]) == pytest.approx(9)
