"""The object's step, and the likelihoods and regularisers that ask for it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.physics.likelihood import Amplitude, Likelihood, Poisson, as_likelihood, total_variation
from ptycho_torch.physics.low_pass import low_pass
from ptycho_torch.physics.object_step import damped_illumination, momentum_step, object_step
from ptycho_torch.physics.preconditioner import accelerate_slow_phase, slow_phase_acceleration
from ptycho_torch.physics.regularisers import Regulariser, TotalVariation
from ptycho_torch.simulation import make_probe

SHAPE = (40, 56)


def wave(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


@given(st.floats(0, 1), st.floats(0, 0.95), st.integers(0, 99))
def test_many_equal_directions_add_up_to_a_geometric_series(step: float, momentum: float, seed: int) -> None:
    value = velocity = torch.zeros(SHAPE, dtype=torch.complex64)
    direction = wave(seed)
    for _ in range(3):
        value, velocity = momentum_step(value, velocity, direction, step=step, momentum=momentum)
    expected = step * (3 + 2 * momentum + momentum**2) * direction
    assert torch.allclose(value, expected, atol=1e-5)


def test_a_step_accelerates_slow_phase_and_damps_details_only() -> None:
    obj, gradient, still = wave(1), wave(2), torch.zeros(SHAPE, dtype=torch.complex64)
    acceleration = slow_phase_acceleration(torch.as_tensor(make_probe("defocus", n=32), dtype=torch.complex64), SHAPE)
    plain = object_step(obj, still, gradient, acceleration=None, step=1.0, momentum=0.5)
    assert torch.equal(plain.direction, gradient) and torch.equal(plain.obj, obj + gradient)
    full = object_step(obj, still, gradient, acceleration=acceleration, step=1.0, momentum=0.5)
    assert torch.equal(full.direction, accelerate_slow_phase(gradient, obj, acceleration))
    less = object_step(obj, still, gradient, acceleration=acceleration, step=1.0, momentum=0.5, damping=0.25)
    slow = low_pass(full.direction)
    assert torch.allclose(less.velocity, slow + 0.25 * (full.direction - slow), atol=1e-5)


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.5, 1e6), st.integers(0, 99))
def test_a_tenth_of_the_largest_illumination_holds_back_what_is_dark(h: int, w: int, most: float, seed: int) -> None:
    light = most * torch.rand(h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(damped_illumination(light) - light, 0.1 * light.max().expand_as(light))


@pytest.mark.parametrize("likelihood", [Poisson(), Amplitude()], ids=["poisson", "amplitude"])
@pytest.mark.parametrize("each", [False, True])
def test_the_step_of_a_likelihood_is_the_slope_of_its_value(likelihood: Likelihood, each: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    counts = torch.poisson(20 * torch.rand(3, 9, 9, dtype=torch.float64, generator=generator), generator=generator)
    valid = torch.rand((3, 9, 9) if each else (9, 9), generator=generator) > 0.3
    amplitude = counts.sqrt() * valid
    predicted = (1 + 20 * torch.rand(3, 9, 9, dtype=torch.float64, generator=generator)).requires_grad_()
    value = likelihood.value(predicted, amplitude, valid)
    assert value.shape == (3,) and (value > 0).all()
    assert float(likelihood.value(counts, amplitude, valid).abs().max()) < 1e-6
    pixels = valid.expand(counts.shape).sum((-2, -1))
    (slope,) = torch.autograd.grad((value * pixels).sum(), predicted)
    none = torch.zeros(3, 1, 1, dtype=torch.float64)
    step = likelihood.step(predicted.detach(), amplitude, valid, softening=none, background=0.0) * valid
    scale = 0.25 if isinstance(likelihood, Poisson) else 1.0  # so that both are ½ Σ(√I − √n)² near the best fit
    assert torch.allclose(step, -2 * scale * slope)


def test_a_likelihood_is_named_or_given() -> None:
    own = Amplitude()
    assert as_likelihood(own) is own and as_likelihood("poisson") == Poisson()
    with pytest.raises(ValueError, match="'gauss' is unknown; poisson, amplitude"):
        as_likelihood("gauss")


@settings(deadline=None, max_examples=10)
@given(st.floats(0.01, 1.0), st.integers(0, 99))
def test_the_proximal_step_of_total_variation_is_its_minimum(weight: float, seed: int) -> None:
    """No object nearby has a lower ½ |x − O|² + weight · TV(x), and a flat object stays."""
    noisy, regulariser = 1 + wave(seed), TotalVariation(weight, iterations=300)
    assert isinstance(regulariser, Regulariser)

    def cost(obj: torch.Tensor) -> float:
        return float(0.5 * (obj - noisy).abs().square().sum() + weight * obj.numel() * _mean_variation(obj))

    found = regulariser.proximal(noisy, 1.0)
    assert total_variation(found) < total_variation(noisy)
    for other in (noisy, found + 0.01 * wave(seed + 1), found + 0.05 * (noisy - found), found - 0.05 * (noisy - found)):
        assert cost(found) <= cost(other) * (1 + 1e-4)
    flat = torch.full(SHAPE, 0.5 + 0.2j)
    assert torch.allclose(regulariser.proximal(flat, 1.0), flat, atol=1e-6)
    assert torch.equal(regulariser.proximal(noisy, 0.0), noisy)


def _mean_variation(obj: torch.Tensor) -> torch.Tensor:
    """Mean over all pixels of √(|∂_y O|² + |∂_x O|²), differences over the rim zero."""
    down, right = torch.zeros(obj.shape), torch.zeros(obj.shape)
    down[:-1], right[:, :-1] = obj.diff(dim=0).abs().square(), obj.diff(dim=1).abs().square()
    return (down + right).sqrt().mean()
