"""The fused sweep is the generic forward model, is autograd, with every propagator; so is its derivative."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from physics_cases import PROPAGATORS, random_real, random_wave

from ptycho_torch.forward import Exposure, Forward
from ptycho_torch.physics import sweep
from ptycho_torch.physics.propagation import Propagator

every = pytest.mark.parametrize("propagator", PROPAGATORS.values(), ids=PROPAGATORS.keys())
CORNERS = torch.tensor([[0, 0], [3, 4], [5, 9], [12, 14], [7, 2]])
BACKGROUND = 0.02


def a_mask(n: int, *, each: bool = False) -> torch.Tensor:
    """Pixels that count: all but a few; or, for five patterns, others for each."""
    valid = torch.ones(n, n, dtype=torch.bool)
    valid[2, 3] = valid[n - 1, 0] = False
    return valid & (random_real(5, n, n, seed=3) > 0.2) if each else valid


def some_amplitudes(n: int) -> torch.Tensor:
    return random_real(5, n, n, seed=6) + 0.5


def misfits(
    counts: torch.Tensor, amplitude: torch.Tensor, *, likelihood: str, background: float | torch.Tensor
) -> torch.Tensor:
    """What the sweeps lower, for each pixel, up to a constant; `background` in photons."""
    soft = sweep.SOFTENING * amplitude.square().mean((-2, -1), keepdim=True)
    if likelihood == "amplitude":
        return 0.5 * counts - amplitude * (counts + soft).sqrt()
    dark = soft + background
    return 0.25 * (counts - (amplitude.square() + dark) * (counts + dark).log())


def generic_gradient(
    obj: torch.Tensor, forward: Forward, at: Exposure, valid: torch.Tensor, background: float | None
) -> torch.Tensor:
    """Minus the derivative of the misfit, by autograd through `Forward.counts`."""
    amplitude = some_amplitudes(at.probe.shape[-1])
    mean = amplitude.square().mean((-2, -1), keepdim=True)
    likelihood = "amplitude" if background is None else "poisson"
    each = misfits(forward.counts(obj, at), amplitude, likelihood=likelihood, background=(background or 0) * mean)
    (up,) = torch.autograd.grad(torch.where(valid, each, 0.0).sum(), obj, create_graph=True)
    return -up


def as_tensor(background: float | None) -> torch.Tensor | None:
    return None if background is None else torch.tensor(background, dtype=torch.float64)


@every
@pytest.mark.parametrize("background", [None, BACKGROUND])
@pytest.mark.parametrize(
    ("n", "modes", "shared", "masks"), [(8, 1, True, False), (8, 3, False, True), (7, 2, True, True)]
)
def test_the_likelihood_gradient_and_its_derivative_are_those_of_autograd(
    propagator: Propagator, n: int, modes: int, shared: bool, masks: bool, background: float | None
) -> None:
    forward, obj = Forward(propagator), random_wave(20, 22, seed=4).requires_grad_()
    at = Exposure(random_wave(1 if shared else 5, modes, n, n, seed=5), CORNERS)
    valid, given = a_mask(n, each=masks), as_tensor(background)
    slow = generic_gradient(obj, forward, at, valid, background)
    fast = forward.gradient(obj, at, some_amplitudes(n), valid, background=given)
    assert torch.allclose(fast, slow)
    without_graph = forward.gradient(obj.detach(), at, some_amplitudes(n), valid, background=given)
    assert torch.equal(without_graph, fast)
    along = random_wave(20, 22, seed=8)
    (bent_slow,) = torch.autograd.grad(slow, obj, along)
    (bent_fast,) = torch.autograd.grad(fast, obj, along)
    assert torch.allclose(bent_fast, bent_slow)


@every
@pytest.mark.parametrize("background", [None, BACKGROUND])
@pytest.mark.parametrize("modes", [1, 2])
def test_the_derivative_of_the_likelihood_gradient_is_that_of_finite_differences(
    propagator: Propagator, modes: int, background: float | None
) -> None:
    obj, probe = random_wave(9, 9, seed=7).requires_grad_(), random_wave(3, modes, 5 + modes % 2, 5 + modes % 2, seed=8)
    n = probe.shape[-1]
    corners = torch.tensor([[0, 0], [3, 2], [1, 3]])
    amplitude, valid = some_amplitudes(n)[:3], a_mask(n)

    def gradient(wave: torch.Tensor) -> torch.Tensor:
        return sweep.likelihood_gradient(
            wave, probe, corners, amplitude, valid, propagator=propagator, background=as_tensor(background)
        )

    assert torch.autograd.gradcheck(gradient, (obj,))


@every
@pytest.mark.parametrize("options", [{"likelihood": "amplitude"}, {}, {"background": BACKGROUND}])
@pytest.mark.parametrize(("n", "modes", "masks"), [(8, 1, False), (8, 3, True), (7, 2, True)])
def test_the_exit_wave_correction_is_minus_the_derivative_by_each_exit_wave(
    propagator: Propagator, n: int, modes: int, masks: bool, options: dict[str, Any]
) -> None:
    forward, probe, patches = Forward(propagator), random_wave(5, modes, n, n, seed=5), random_wave(5, n, n, seed=9)
    amplitude, valid = some_amplitudes(n), a_mask(n, each=masks)
    change = torch.zeros(5, modes, n, n, dtype=torch.complex128, requires_grad=True)
    counts = propagator.forward(patches[:, None] * probe + change).abs().square().sum(1)
    kind, background = options.get("likelihood", "poisson"), options.get("background", 0.0)
    each = misfits(counts, amplitude, likelihood=kind, background=background)
    (up,) = torch.autograd.grad(torch.where(valid, each, 0.0).sum(), change)
    asked, photons = forward.correction(patches, probe, amplitude, valid, **options)
    assert torch.allclose(asked, -up)
    soft = sweep.SOFTENING * amplitude.square().mean((-2, -1), keepdim=True)
    assert torch.allclose(photons, ((counts.detach() + soft) * valid).sum((-2, -1)))


@every
@pytest.mark.parametrize("background", [None, BACKGROUND])
def test_the_truth_asks_for_nothing(propagator: Propagator, background: float | None) -> None:
    forward, obj, n = Forward(propagator), random_wave(20, 22, seed=4), 8
    at = Exposure(random_wave(1, 2, n, n, seed=5), CORNERS)
    counts = forward.counts(obj, at)
    soft = sweep.SOFTENING if background is None else 0.0
    amplitude = (counts + soft * counts.mean((-2, -1), keepdim=True)).sqrt()
    direction = forward.gradient(obj, at, amplitude, a_mask(n), background=as_tensor(background))
    assert float(direction.abs().max()) < 1e-3 * float(forward.gradient(2 * obj, at, amplitude, a_mask(n)).abs().max())
    spoiled = torch.where(a_mask(n), amplitude, 0.5 * amplitude)  # where nothing was measured, nothing is asked for
    asked, _ = forward.correction(forward.patches(obj, at), at.probe, spoiled, a_mask(n))
    assert float(asked.abs().max()) < 1e-2 * float(at.probe.abs().max())


@every
def test_a_saturated_pixel_asks_for_more_where_less_is_predicted_and_for_nothing_else(
    propagator: Propagator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "SOFTENING", 1e-12)  # which depends on what was measured
    forward, probe, patches = Forward(propagator), random_wave(5, 2, 8, 8, seed=5), random_wave(5, 8, 8, seed=9)
    amplitude, valid = some_amplitudes(8), a_mask(8)
    full = random_real(5, 8, 8, seed=12) > 0.7
    counts = propagator.forward(patches[:, None] * probe).abs().square().sum(1)
    least = torch.where(full, counts.sqrt() * (0.5 + random_real(5, 8, 8, seed=13)), 0.0)
    measured = torch.where(full, 0.0, amplitude)
    too_little = full & (counts < least.square())
    assert too_little.any() and (full & ~too_little).any()
    asked, photons = forward.correction(patches, probe, measured, valid & ~full, least=least)
    as_counts = torch.where(full, least, amplitude)
    wanted, _ = forward.correction(patches, probe, as_counts, (valid & ~full) | too_little)
    assert torch.allclose(asked, wanted)
    assert torch.equal(photons, forward.correction(patches, probe, measured, valid & ~full)[1])
