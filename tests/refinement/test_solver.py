"""The solver as a whole: it finds what was hidden, and it never makes an object worse."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from refinement_cases import flat, refined, region_of, scores, truth_of
from scans import dense_scan

from ptycho_torch.physics.likelihood import Poisson
from ptycho_torch.physics.low_pass import low_pass
from ptycho_torch.physics.probe import with_more_modes
from ptycho_torch.physics.regularisers import TotalVariation
from ptycho_torch.refinement import SCHEDULE, Progress, Unknowns, refine
from ptycho_torch.refinement.solver import Action, Control, init, next_control, result, step, stop
from ptycho_torch.simulation.truth import as_region, relative_error
from ptycho_torch.simulation.unseen import simulated


def test_what_counts_is_the_mean_of_a_sweep_which_has_less_noise_than_its_end() -> None:
    scan = dense_scan(photons=1e4)
    region = region_of(scan)
    with torch.inference_mode():
        run = init(region, flat(region), unknowns=Unknowns(probe=True))
        for _ in range(7):
            step(run)
        mean, end = (
            scores(scan, region, obj)["amplitude_psnr_db"] for obj in (run.state.mean_object, run.state.object)
        )
    assert mean > end + 0.5
    found = result(run)
    assert found.best_sweep == 7
    assert found.object is run.state.mean_object and found.probe is run.state.mean_probe


@pytest.mark.parametrize(("photons", "segment"), [(1e2, 1), (1e8, 0)])
def test_what_a_network_gives_is_refined_from_the_first_segment_on_only_while_it_is_far_from_noise(
    photons: float, segment: int
) -> None:
    region = region_of(dense_scan(photons=photons))
    with torch.inference_mode():
        assert init(region, flat(region), start="network").control.segment == segment
        assert init(region, flat(region), start="flat").control.segment == 0
        assert init(region, flat(region), start="refined").control.segment == 1


LAST = len(SCHEDULE.segments) - 1


@pytest.mark.parametrize(
    ("control", "misfits", "gain", "start", "action", "after"),
    [
        (Control(0, sweeps=5), [5.0, 4.0], 5.0, "flat", Action.GO_ON, Control(0, sweeps=5)),
        (Control(0, sweeps=5), [0.6, 0.59], 5.0, "flat", Action.NEXT_SEGMENT, Control(1)),
        (Control(0, sweeps=5), [0.6, 0.4], 1.9, "flat", Action.NEXT_SEGMENT, Control(1)),
        (Control(0, sweeps=2), [0.6, 0.4], 1.9, "flat", Action.GO_ON, Control(0, sweeps=2, idle=1)),
        (Control(0, sweeps=5), [6.0, 4.0], 1.9, "flat", Action.GO_ON, Control(0, sweeps=5, idle=1)),
        (Control(0, sweeps=5, idle=3), [6.0, 4.0], 1.9, "flat", Action.NEXT_SEGMENT, Control(1)),
        (Control(1, sweeps=5), [0.6, 0.7], -3.0, "flat", Action.NEXT_SEGMENT, Control(2)),
        (Control(1, sweeps=5), [0.6, 0.7], -3.0, "network", Action.BEST_AGAIN, Control(LAST, damping=0.5)),
        (Control(LAST), [0.6, 0.7], -1.1, "flat", Action.DAMP, Control(LAST, idle=1, damping=0.5)),
        (Control(LAST, damping=0.5), [0.6, 0.6], 0.0, "flat", Action.GO_ON, Control(LAST, idle=1, damping=0.65)),
        (Control(LAST, idle=9), [0.7, 0.6], 1.1, "flat", Action.GO_ON, Control(LAST)),
        (Control(LAST, idle=10), [0.6, 0.6], 0.0, "flat", Action.STOP, Control(LAST, idle=11)),
        (Control(0), [0.6, math.nan], 0.0, "flat", Action.STOP, Control(0)),
    ],
)
def test_what_follows_from_a_sweep(
    control: Control, misfits: list[float], gain: float, start: str, action: Action, after: Control
) -> None:
    region = region_of(dense_scan())
    run = init(region, flat(region), start=start)  # type: ignore[arg-type]
    run.control, run.history.misfits, run.history.gain = control, misfits, gain
    run.history.best_sweep = 1 if misfits[1] < misfits[0] else 0
    assert next_control(run) == (after, action)


def test_positions_that_are_searched_keep_the_segment_and_near_ones_all_sweeps() -> None:
    region = region_of(dense_scan(), moving=True, margin=6)
    idle = Control(0, sweeps=9, idle=9)
    for over_relax, sweeps, action in (
        (False, 23, Action.GO_ON),
        (False, 24, Action.NEXT_SEGMENT),
        (True, 24, Action.GO_ON),
    ):
        run = init(region, flat(region), unknowns=Unknowns(positions="free"), over_relax=over_relax)
        run.control, run.history.misfits, run.subsets = idle, [0.6, 0.6], [1] * sweeps
        assert next_control(run)[1] is action


def test_a_sweep_that_went_too_far_leaves_its_low_frequencies_only() -> None:
    region = region_of(dense_scan(photons=1e3))
    with torch.inference_mode():
        run = init(region, flat(region), start="refined")
        run.control = Control(LAST)
        step(run)
        moved = run.state.object_velocity
        run.history.gain, run.history.misfits = -2.0, [1.0, 1.1]
        assert not stop(run) and run.control.damping == 0.5
    assert torch.allclose(run.state.object_velocity, low_pass(moved), atol=1e-6)


def test_a_flat_object_reaches_the_truth_of_a_bright_scan() -> None:
    scan = dense_scan(photons=1e9)
    region = region_of(scan)
    result = refined(region, sweeps=40)
    found = scores(scan, region, result.object)
    assert found["amplitude_psnr_db"] > 38 and found["phase_psnr_db"] > 38


def test_a_refinement_never_returns_less_than_its_start() -> None:
    scan = dense_scan(photons=300, seed=5)
    region = region_of(scan)
    truth = truth_of(scan, region)
    found = refined(region, sweeps=8, obj=truth, start="refined")
    assert found.misfits[found.best_sweep] == min(found.misfits) <= found.misfits[0]
    assert float(found.held_out.mean()) <= found.misfits[0]
    if found.best_sweep == 0 and not found.is_combined:
        assert torch.equal(found.object, truth)


def test_a_wrong_probe_is_put_right() -> None:
    scan = dense_scan(photons=1e8)
    line = np.fft.fftfreq(32)
    bend = np.exp(40j * (line[:, None] ** 2 + line[None, :] ** 2))
    wrong = np.fft.ifft2(np.fft.fft2(scan.probe) * bend).astype(np.complex64)
    kept = refined(region_of(scan, wrong))
    freed = refined(region_of(scan, wrong), probe=True, sweeps=40)
    assert min(freed.misfits) < 0.1 * min(kept.misfits)
    region = region_of(scan, wrong)
    found = scores(scan, region, freed.object, ramp=True)
    assert found["amplitude_psnr_db"] > 28 and found["phase_psnr_db"] > 28
    assert freed.probe.abs().square().sum() == pytest.approx(float(region.probe.abs().square().sum()), rel=1e-4)


def test_three_modes_are_told_apart_by_their_power() -> None:
    scan = dense_scan(modes=3, photons=1e8, positions=196)
    single = scan.probe[:1] * math.sqrt(float((np.abs(scan.probe) ** 2).sum() / (np.abs(scan.probe[:1]) ** 2).sum()))
    start = with_more_modes(torch.as_tensor(single), 3).numpy()
    found = refined(region_of(scan, start), probe=True, sweeps=80)
    power = (np.abs(scan.probe) ** 2).sum((1, 2))
    powers = found.probe.abs().square().sum((1, 2))
    assert np.allclose(powers / powers.sum(), power / power.sum(), atol=0.05)
    alone = refined(region_of(scan, single), probe=True, sweeps=80)
    assert min(found.misfits) < 0.3 * min(alone.misfits)


def test_fluctuating_intensities_are_found() -> None:
    scan = dense_scan(photons=1e7)
    factors = np.random.default_rng(0).uniform(0.7, 1.3, size=len(scan)).astype(np.float32)
    flickering = replace(scan, patterns=scan.patterns * np.sqrt(factors)[:, None, None])
    region = region_of(flickering, moving=True)
    fitted = refined(region, intensities=True)
    expected = torch.as_tensor(factors[region.indices])
    found = fitted.intensities / fitted.intensities.mean() * expected.mean()
    assert (found - expected).abs().median() < 0.01
    assert min(fitted.misfits) < 0.2 * min(refined(region).misfits)


@pytest.mark.parametrize("seed", [1, 2])
def test_wrong_positions_are_put_right_even_one_at_the_rim_that_nothing_contradicts(seed: int) -> None:
    scan = dense_scan(photons=1e7, positions=196)
    errors = np.random.default_rng(seed).normal(scale=1.0, size=scan.positions.shape)
    errors[scan.positions[:, 0].argmin()] = (-6.0, 1.0)
    region = region_of(replace(scan, positions=scan.positions + errors), margin=9, moving=True)
    found = refined(region, positions="free", sweeps=60)

    def rms(positions: torch.Tensor) -> float:
        left = positions.numpy() + np.array(region.origin) - scan.positions[region.indices]
        return float(np.sqrt(np.square(left - left.mean(0)).mean()))

    assert rms(region.positions) > 0.85 and rms(found.positions) < 0.02
    assert min(found.misfits) < 0.3 * min(refined(region).misfits)


def test_a_stretched_scan_is_put_right_by_an_affine_map() -> None:
    scan = dense_scan(photons=1e6, positions=196)
    centre = scan.positions.mean(0)
    region = region_of(
        replace(scan, positions=centre + (scan.positions - centre) * (1.05, 0.96)), subsets=4, margin=8, moving=True
    )
    found = refined(region, positions="affine", sweeps=80).positions.numpy()
    true = scan.positions[region.indices]
    design = np.c_[true - true.mean(0), np.ones(len(true))]
    assert np.allclose(np.linalg.lstsq(design, found, rcond=None)[0][:2], np.eye(2), atol=0.01)


def test_patterns_that_hardly_overlap_are_enough_where_the_probe_is_a_diffuser() -> None:
    def errors(probe: str) -> float:
        region, truth = as_region(simulated(photons=1e7, overlap=0.1, n=32, positions=49, probe=probe))
        light = region.illumination()
        obj = refined(region, sweeps=100).object
        return float(relative_error(obj, truth, (light / (0.3 * light.max())).clamp(max=1)))

    assert errors("diffuser") < 0.01 < 0.1 < errors("defocus")


def test_an_interrupt_leaves_the_best_so_far() -> None:
    region = region_of(dense_scan())

    def interrupt(progress: Progress) -> None:
        if progress.sweep == 3:
            raise KeyboardInterrupt

    with torch.inference_mode():
        found = refine(region, flat(region), sweeps=30, on_sweep=interrupt)
    assert len(found.misfits) == 4 and found.best_sweep > 0 and found.is_interrupted


def test_who_is_called_after_each_sweep_may_end_the_refinement() -> None:
    region, seen = region_of(dense_scan()), list[Progress]()

    def watch(progress: Progress) -> bool:
        seen.append(progress)
        return progress.sweep == 4

    with torch.inference_mode():
        found = refine(region, flat(region), sweeps=30, unknowns=Unknowns(probe=True), on_sweep=watch)
        whole = refine(region, flat(region), sweeps=4, unknowns=Unknowns(probe=True))
    assert found.is_interrupted and not whole.is_interrupted
    assert [(each.sweep, each.sweeps, each.held_out) for each in seen] == [
        (sweep, 30, found.misfits[sweep]) for sweep in (1, 2, 3, 4)
    ]
    assert seen[-1].origin == region.origin and torch.equal(seen[-1].obj, found.object)
    assert torch.equal(found.object, whole.object)


class Gaussian:
    """A likelihood of one's own: the same noise on every count, L = ½ Σ (I − n)², in units of its own."""

    def __init__(self, variance: float) -> None:
        self.variance = variance

    def step(
        self,
        intensity: torch.Tensor,
        amplitude: torch.Tensor,
        valid: torch.Tensor,
        *,
        softening: torch.Tensor,
        background: float,
    ) -> torch.Tensor:
        return (amplitude.square() - (intensity - softening)) / (2 * (self.variance + intensity))

    def value(self, predicted: torch.Tensor, amplitude: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        errors = (predicted - amplitude.square()).square() / (2 * (self.variance + amplitude.square()))
        return (errors * valid).sum((-2, -1)) / valid.sum((-2, -1))


def test_a_likelihood_of_one_s_own_is_maximised() -> None:
    scan = dense_scan(photons=1e8)
    region = region_of(scan)
    with torch.inference_mode():
        own = refine(region, flat(region), sweeps=20, likelihood=Gaussian(10.0))
        given, named = (refine(region, flat(region), sweeps=6, likelihood=each) for each in (Poisson(), "poisson"))
    assert min(own.misfits) < 1e-2 * own.misfits[0]
    found = scores(scan, region, own.object)
    assert found["amplitude_psnr_db"] > 30 and found["phase_psnr_db"] > 30
    assert torch.equal(given.object, named.object)


def test_a_regulariser_smooths_a_noisy_object() -> None:
    scan = dense_scan(photons=1e3)
    region = region_of(scan)
    light, truth = region.illumination(), truth_of(scan, region)
    with torch.inference_mode():
        bare = refine(region, flat(region), sweeps=15)
        smooth = refine(region, flat(region), sweeps=15, regulariser=TotalVariation(0.02))
    errors = [float(relative_error(each.object, truth, light)) for each in (smooth, bare)]
    assert errors[0] < 0.9 * errors[1]
