"""The validation set: no step uses it, and it decides what is best."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refinement_cases import flat, region_of, truth_of
from scans import dense_scan

from ptycho_torch.data.held_out import held_out_pixels, pick_validation_set
from ptycho_torch.physics.likelihood import poisson_nll_each
from ptycho_torch.refinement import Estimate, Unknowns
from ptycho_torch.refinement.solver import Run, init, step
from ptycho_torch.refinement.state import State
from ptycho_torch.refinement.validation import (
    History,
    combine_with_initial,
    gain_in_standard_errors,
    held_out_misfits,
)
from ptycho_torch.simulation.truth import relative_error

EVERYTHING = Unknowns(probe=True, positions="free", intensities="free")


@pytest.mark.parametrize("segment", range(4))
@pytest.mark.parametrize("unknowns", [Unknowns(), EVERYTHING], ids=["object", "everything"])
def test_no_step_of_a_sweep_uses_held_out_data(segment: int, unknowns: Unknowns) -> None:
    """Whatever stands there, the states after every sweep are the same; only the misfit tells."""
    scan, moving = dense_scan(positions=240), unknowns.has_positions
    validation = pick_validation_set(scan.positions, torch.as_tensor(scan.probe), moving=moving)
    assert (len(validation.patterns), validation.every) == ((60, 8) if moving else (8, 1))
    changed = scan.patterns.copy()
    pixels = held_out_pixels(validation.patterns, scan.n, every=validation.every)
    changed[validation.patterns] *= np.where(pixels, 0.5, 1)
    assert (changed != scan.patterns).any()

    def run_of(patterns: np.ndarray) -> Run:
        region = region_of(replace(scan, patterns=patterns), moving=moving, mean_photons=scan.mean_photons(), margin=6)
        run = init(region, flat(region), unknowns=unknowns)
        run.control = replace(run.control, segment=segment)
        return run

    one, other = run_of(scan.patterns), run_of(changed)
    with torch.inference_mode():
        for _ in range(5):
            misfits = step(one), step(other)
            assert misfits[1] > 1.1 * misfits[0]
            for name in ("object", "probe", "positions", "intensities", "mean_object", "mean_probe"):
                mine, theirs = getattr(one.state, name), getattr(other.state, name)
                if unknowns == Unknowns():
                    assert torch.equal(mine, theirs), name
                else:  # small matrix products may round by where they lie in memory
                    assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-4 * float(mine.abs().max())), name


def test_without_held_out_patterns_all_count() -> None:
    scan = dense_scan()
    region = region_of(scan, validation=None)
    values = held_out_misfits(region, State.initial(region, truth_of(scan, region)).mean, Unknowns())
    assert values.shape == (120,) and 0.4 < float(values.mean()) < 0.6


@pytest.mark.parametrize("likelihood", ["poisson", "amplitude"])
def test_the_truth_explains_held_out_pixels_to_the_photon_noise(likelihood: str) -> None:
    scan = dense_scan()
    region = region_of(scan, moving=True)
    estimate = State.initial(region, truth_of(scan, region)).mean
    values = held_out_misfits(region, estimate, Unknowns(), likelihood)
    assert values.shape == (30,)
    assert float(values.mean()) == pytest.approx(0.5 if likelihood == "poisson" else 0.125, rel=0.15)
    twice = replace(estimate, intensities=2 * estimate.intensities)
    brighter = held_out_misfits(region, twice, Unknowns(intensities="free"), likelihood)
    assert (brighter > values).all()
    if likelihood == "poisson":
        batch = next(iter(region.validation_batches()))
        predicted = 2 * region.forward.counts(estimate.object, batch)
        expected = poisson_nll_each(predicted, batch.amplitude.square(), batch.valid)
        assert torch.allclose(brighter[: len(expected)].float(), expected, rtol=1e-4)


@given(st.floats(-2, 2), st.integers(2, 300))
def test_a_gain_is_counted_in_standard_errors(shift: float, count: int) -> None:
    values = torch.linspace(0, 1, count, dtype=torch.float64)
    before = shift + torch.linspace(-1, 1, count, dtype=torch.float64) + values
    expected = shift / (float(torch.linspace(-1, 1, count, dtype=torch.float64).std()) / math.sqrt(count))
    assert gain_in_standard_errors(before, values) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert gain_in_standard_errors(values, before) == pytest.approx(-expected, rel=1e-6, abs=1e-6)
    assert gain_in_standard_errors(before[:1], values[:1]) == 0


def test_the_history_keeps_the_best_and_takes_no_notice_of_what_is_not_finite() -> None:
    def estimate(value: float) -> Estimate:
        return Estimate(*(torch.full((2,), value) for _ in range(4)))

    history, positions = History(best=estimate(0), last=estimate(0)), estimate(1).positions
    for value, misfit in ((1.0, 3.0), (2.0, 1.0), (3.0, 2.0), (4.0, math.nan)):
        seen = replace(estimate(value), positions=positions)
        assert history.add(seen, misfit + torch.tensor([-0.1, 0.1])) == pytest.approx(misfit, nan_ok=True)
        positions += 1  # in place, as a solver moves them
    assert history.best_sweep == 1 and history.misfits[:3] == pytest.approx([3, 1, 2])
    assert history.best.object[0] == 2 and history.best.positions[0] == 2
    assert history.last.object[0] == 4 and history.best_values.mean() == pytest.approx(1)


def combined(initial: torch.Tensor, last: torch.Tensor, *, least: float | None = None) -> torch.Tensor | None:
    """What `combine_with_initial` makes of two sweeps of a dim scan; `least`: misfit of the initial object instead."""
    region = DIM_REGION
    state = State.initial(region, initial)
    history = History(best=state.mean, last=state.mean)

    def misfits_of(obj: torch.Tensor) -> torch.Tensor:
        return held_out_misfits(region, replace(state.mean, object=obj), Unknowns())

    for obj in (initial, last):
        history.add(replace(state.mean, object=obj), misfits_of(obj))
    if least is not None:
        history.misfits[0] = least
    light = region.illumination()
    found = combine_with_initial(initial, history, light, misfits_of=misfits_of, equivalent_gain=1.0)
    if found is None:
        return None
    assert torch.equal(found[1], misfits_of(found[0]))
    return found[0]


DIM = dense_scan(photons=1e3, positions=240)
DIM_REGION = region_of(DIM)


def test_the_last_sweep_gives_the_low_frequencies_and_the_initial_object_its_details() -> None:
    """As long as held-out patterns are explained as well; a flat object has no details to give."""
    light, truth = DIM_REGION.illumination(), truth_of(DIM, DIM_REGION)
    wave = 0.3 * torch.sin(torch.arange(truth.shape[0]) / 8)[:, None]
    noise = 0.05 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(4))
    last = truth * torch.polar(torch.ones_like(noise), noise)
    sloped = truth * torch.polar(torch.ones_like(noise), wave.expand_as(noise))
    for initial, has_details in ((sloped, True), (torch.ones_like(truth), False)):
        found = combined(initial, last)
        assert found is not None
        error = float(relative_error(found, truth, light) / relative_error(last, truth, light))
        assert error < 1.1 and (error < 0.2) == has_details
        assert combined(initial, last, least=0.0) is None  # an initial object that nothing explains better than
    worse = truth * torch.polar(torch.ones_like(noise), 3 * wave.expand_as(noise))
    assert combined(truth, worse) is None
    assert combined(truth, worse * math.nan) is None
