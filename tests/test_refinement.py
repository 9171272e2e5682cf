"""Refinement: its steps are the likelihood's, it finds what was hidden, and it never makes a picture worse."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.data.held_out import held_out_pixels, pick_judges
from ptycho_torch.data.region import Region
from ptycho_torch.data.scan import Scan
from ptycho_torch.metrics import compare
from ptycho_torch.physics.low_pass import slow_part
from ptycho_torch.physics.optics import detector_intensity, exit_wave, far_field
from ptycho_torch.physics.patches import extract_whole, split_positions
from ptycho_torch.physics.positions import affine_moves, best_offset, position_step
from ptycho_torch.physics.probe import gather_shifted, illumination, orthogonal_modes, shift_probe, with_more_modes
from ptycho_torch.physics.sweep import exit_wave_correction
from ptycho_torch.physics.warp import carried, smooth_field
from ptycho_torch.refinement.course import CARRY, GEARS, STRIDE, Course, Freedom, Refined, refine
from ptycho_torch.refinement.initial_probe import search_probe
from ptycho_torch.refinement.of_scan import rounds_of
from ptycho_torch.simulation import simulate_scan
from ptycho_torch.simulation.truth import as_region, relative_error
from ptycho_torch.simulation.unseen import simulated


def a_scan(*, modes: int = 1, photons: float = 1e6, seed: int = 3, noise: bool = True, **options: object) -> Scan:
    settings = {"n": 32, "positions": 120, "step_px": 3.4, "jitter_px": 1.0, "aspect": 0.7, **options}
    made = simulate_scan(modes=modes, photons=photons, seed=seed, noise=noise, **settings)  # type: ignore[arg-type]
    return Scan.from_arrays(made.amplitude, made.positions, probe=made.probe, domain="amplitude", obj=made.obj)


def region_of(scan: Scan, probe: np.ndarray | None = None, **options: object) -> Region:
    start = torch.as_tensor(scan.probe if probe is None else probe)
    moving = bool(options.pop("moving", False))
    settings = {"subsets": 6, "judges": pick_judges(scan.positions, start, moving=moving), **options}
    return Region(scan, np.arange(len(scan)), start, **settings)  # type: ignore[arg-type]


def refined(region: Region, *, sweeps: int = 30, obj: torch.Tensor | None = None, **freedom: object) -> Refined:
    flat = torch.ones(region.shape, dtype=torch.complex64)
    with torch.inference_mode():
        return refine(region, flat if obj is None else obj, sweeps=sweeps, freedom=Freedom(**freedom))  # type: ignore[arg-type]


def scores(scan: Scan, region: Region, obj: torch.Tensor, *, ramp: bool = False) -> dict[str, float]:
    """Against the truth, in the rectangle of the positions, global factor removed."""
    assert scan.obj is not None
    (y0, x0), (y1, x1) = scan.positions.min(0).astype(int) + 4, scan.positions.max(0).astype(int) - 4
    top, left = region.origin
    part = obj.numpy()[y0 - top : y1 - top, x0 - left : x1 - left]
    return compare(part, scan.obj[y0:y1, x0:x1], scale="complex", ramp=ramp)


def test_what_counts_is_the_mean_of_a_sweep_which_has_less_noise_than_its_end() -> None:
    scan = a_scan(photons=1e4)
    region = region_of(scan)
    with torch.inference_mode():
        course = Course(region, torch.ones(region.shape, dtype=torch.complex64), Freedom(probe=True))
        course.judge(0)
        for sweep in range(1, 8):
            course.sweep(sweep)
            course.judge(sweep)
        mean, end = (scores(scan, region, obj)["amplitude_psnr_db"] for obj in (course.mean, course.obj))
    assert mean > end + 0.5
    assert course.result.best_sweep == 7
    assert course.result.object is course.mean and course.result.probe is course.mean_probe


def test_every_gear_has_its_chance() -> None:
    subsets = refined(region_of(a_scan(photons=1e4)), sweeps=30).subsets
    runs = [subsets.count(count) for count in sorted(set(subsets), reverse=True)]
    assert len(runs) == 3 and min(runs) >= STRIDE


def test_the_last_sweep_gives_the_slow_parts_and_the_start_its_details() -> None:
    """As long as what is held out finds that as likely; a flat start has no details to give."""
    scan = a_scan(photons=1e3, positions=240)
    region = region_of(scan)
    light = region.illumination()
    _, truth = as_region(scan)
    wave = 0.3 * torch.sin(torch.arange(region.shape[0]) / 8)[:, None]
    noise = 0.05 * torch.randn(region.shape, generator=torch.Generator().manual_seed(4))
    known = truth * torch.polar(torch.ones_like(noise), noise)
    for start, details in ((truth * torch.polar(torch.ones_like(noise), wave), True), (torch.ones_like(truth), False)):
        with torch.inference_mode():
            course = Course(region, start, Freedom(start="refined"))
            course.judge(0)
            course.mean = course.obj = known
            course.judge(1)
            course.settle()
        assert course.result.is_settled
        error = float(relative_error(course.result.object, truth, light) / relative_error(known, truth, light))
        assert error < 1.1 and (error < 0.2) == details
        course.result.is_settled, course.result.likelihood[0] = False, 0.0  # a start that nothing is likelier than
        with torch.inference_mode():
            course.settle()
        assert not course.result.is_settled
    with torch.inference_mode():
        course = Course(region, truth, Freedom(start="refined"))
        course.judge(0)
        course.mean = truth * torch.polar(torch.ones_like(noise), 3 * wave)  # a worse one gives nothing
        course.judge(1)
        course.settle()
    assert not course.result.is_settled and torch.equal(course.result.object, truth)


def test_caution_holds_back_details_and_lets_slow_parts_go_on() -> None:
    """Where the pixels held out find a sweep too long, its noise is meant: it lies in the details."""
    region = region_of(a_scan(photons=1e3))

    def details_of_a_step(caution: float) -> tuple[float, float]:
        with torch.inference_mode():
            course = Course(region, torch.ones(region.shape, dtype=torch.complex64), Freedom(start="refined"))
            course.gear, course.caution = len(GEARS) - 1, caution
            course.sweep(1)
            course.gain, course.result.likelihood = -2.0, [1.0, 1.1]
            moved = course.velocity.clone()
            assert not course.is_over() and course.caution == caution / 2
            assert torch.allclose(course.velocity, slow_part(moved), atol=1e-6)
            slow = slow_part(moved)
            return float((moved - slow).abs().square().sum()), float(slow.abs().square().sum())

    (fine, slow), (careful_fine, careful_slow) = details_of_a_step(1.0), details_of_a_step(0.0)
    assert careful_fine < 0.2 * fine and careful_slow > 0.5 * slow


@pytest.mark.parametrize(("photons", "gear"), [(1e2, 1), (1e8, 0)])
def test_what_a_network_leaves_is_refined_in_coarse_gear_only_while_it_is_far_from_noise(
    photons: float, gear: int
) -> None:
    region = region_of(a_scan(photons=photons))
    with torch.inference_mode():
        course = Course(region, torch.ones(region.shape, dtype=torch.complex64), Freedom(start="network"))
        course.judge(0)
    assert course.gear == gear


@pytest.mark.parametrize("likelihood", ["poisson", "amplitude"])
@pytest.mark.parametrize("n", [8, 9])
def test_the_correction_of_the_exit_waves_is_minus_the_gradient_of_the_likelihood(likelihood: str, n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    shape, real = (3, 2, n, n), torch.float64
    probe = torch.randn(shape, dtype=torch.complex128, generator=generator)
    patches = torch.randn(3, n, n, dtype=torch.complex128, generator=generator)
    counts = torch.poisson(30 * torch.rand(3, n, n, dtype=real, generator=generator), generator=generator)
    valid = torch.rand(n, n, generator=generator) > 0.2
    wave = exit_wave(patches, probe).requires_grad_()
    amplitude = counts.sqrt() * valid
    soft = 1e-4 * amplitude.square().mean((-2, -1), keepdim=True)
    power = detector_intensity(far_field(wave)) + soft
    if likelihood == "poisson":
        (0.25 * ((power - (amplitude.square() + soft) * power.log()) * valid).sum()).backward()
    else:
        (0.5 * ((power.sqrt() - amplitude).square() * valid).sum()).backward()
    found, photons = exit_wave_correction(probe, patches, amplitude, valid, likelihood=likelihood)
    assert wave.grad is not None
    assert torch.allclose(found, -wave.grad, atol=1e-10)
    assert torch.allclose(photons, (power * valid).sum((-2, -1)))


def test_a_background_leaves_the_mean_correction_zero_at_the_truth() -> None:
    scan = a_scan(photons=1e9, noise=False)
    region = region_of(scan)
    batch = next(iter(region.batches()))
    patches = torch.ones(len(batch.amplitude), 32, 32, dtype=torch.complex64)
    exact = detector_intensity(far_field(exit_wave(patches, batch.probe))).sqrt()
    for background in (0.0, 10.0):
        found, _ = exit_wave_correction(batch.probe, patches, exact, region.valid, background=background)
        assert found.abs().max() < 1e-3 * batch.probe.abs().max()


@given(st.integers(6, 11), st.integers(1, 3), st.booleans())
def test_gathering_is_the_adjoint_of_shifting(n: int, modes: int, whole: bool) -> None:
    generator = torch.Generator().manual_seed(n)
    probe = torch.randn(modes, n, n, dtype=torch.complex128, generator=generator)
    waves = torch.randn(4, modes, n, n, dtype=torch.complex128, generator=generator)
    fraction = torch.zeros(4, 2) if whole else torch.rand(4, 2, generator=generator) - 0.5
    one = (shift_probe(probe, fraction).conj() * waves).sum()
    other = (probe.conj() * gather_shifted(waves, fraction)).sum()
    assert torch.allclose(one, other)


@given(st.integers(2, 5))
def test_orthogonal_modes_shine_the_same_light_strongest_first(modes: int) -> None:
    probe = torch.randn(modes, 12, 12, dtype=torch.complex128, generator=torch.Generator().manual_seed(modes))
    turned = torch.einsum("mk,kyx->myx", orthogonal_modes(probe), probe)
    overlaps = torch.einsum("myx,kyx->mk", turned, turned.conj())
    power = overlaps.diagonal().real
    assert torch.allclose(overlaps, torch.diag(power).to(overlaps.dtype), atol=1e-9)
    assert (power.diff() <= 1e-9).all()
    assert torch.allclose(illumination(turned), illumination(probe))


def test_added_modes_are_orthogonal_and_take_their_power_from_the_rest() -> None:
    probe = torch.as_tensor(a_scan().probe)
    more = with_more_modes(probe, 4, power=0.1)
    assert more.shape == (4, 32, 32) and with_more_modes(probe, 1) is probe
    overlaps = torch.einsum("myx,kyx->mk", more, more.conj())
    power = overlaps.diagonal().real / probe.abs().square().sum()
    assert torch.allclose(power, torch.tensor([0.7, 0.1, 0.1, 0.1]), atol=1e-4)
    assert (overlaps - torch.diag(overlaps.diagonal())).abs().max() < 1e-3 * overlaps.abs().max()


@settings(deadline=None)
@given(st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)))
def test_a_position_step_points_to_where_the_pattern_was_taken(error: tuple[float, float]) -> None:
    scan = a_scan(photons=1e9)
    region = region_of(scan)
    batch = next(iter(region.batches()))
    assert scan.obj is not None
    (top, left), size = region.origin, region.shape
    truth = torch.ones(size, dtype=torch.complex64)
    seen = torch.as_tensor(scan.obj[top : top + region.extent[0], left : left + region.extent[1]])
    truth[: seen.shape[0], : seen.shape[1]] = seen / region.level
    whole, fraction = split_positions(batch.positions + torch.tensor(error))
    probe = shift_probe(region.probe, fraction)
    patches = extract_whole(truth, whole - 16, 32)
    steps = position_step(probe, patches, batch.amplitude, region.valid)
    assert torch.allclose(steps.median(0).values, -torch.tensor(error), atol=0.02)


def test_photon_noise_moves_no_pattern_from_its_right_place() -> None:
    """Mean step over noises at the truth, in standard errors; √n − √I in the step would give 15 and more."""
    region, truth = as_region(simulated(photons=300, n=32, positions=49))
    batch = next(iter(region.batches()))
    patches = extract_whole(truth, batch.corners, 32)
    expected = detector_intensity(far_field(exit_wave(patches, batch.probe)))
    generator = torch.Generator().manual_seed(0)
    steps = torch.stack(
        [
            position_step(batch.probe, patches, torch.poisson(expected, generator=generator).sqrt(), region.valid)
            for _ in range(200)
        ]
    )
    bias = steps.mean(0) / steps.std(0) * math.sqrt(len(steps))
    assert bias.square().mean().sqrt() < 1.3 and bias.abs().max() < 4


@pytest.mark.parametrize("shape", [(90, 70), (64, 101)])
def test_a_smooth_field_tells_what_moves_have_in_common(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    positions = torch.rand(600, 2, dtype=torch.float64, generator=generator) * (torch.tensor(shape) - 20) + 10
    waves = torch.stack([torch.sin(positions[:, 0] / 25), torch.cos(positions[:, 1] / 30)], 1)
    noise = 0.3 * torch.randn(waves.shape, dtype=torch.float64, generator=generator)
    found = smooth_field(positions, 0.5 + waves + noise, shape, sigma=6.0)
    assert found.shape == (2, *shape)
    y, x = torch.arange(shape[0])[:, None], torch.arange(shape[1])
    expected = 0.5 + torch.stack([torch.sin(y / 25).expand(shape), torch.cos(x / 30).expand(shape)])
    inner = (slice(None), slice(18, shape[0] - 18), slice(18, shape[1] - 18))
    assert (found - expected)[inner].square().mean().sqrt() < 0.08
    grid = torch.cartesian_prod(torch.arange(0.0, shape[0], 3), torch.arange(0.0, shape[1], 3)).double()
    tilted = smooth_field(grid, grid * torch.tensor([0.1, -0.2]), shape, sigma=6.0)
    assert torch.allclose(tilted[0][inner[1:]], 0.1 * y[inner[1]], atol=0.05)
    assert torch.allclose(tilted[1][inner[1:]], -0.2 * x[inner[2]], atol=0.1)


def test_judges_stand_in_the_order_of_the_scan_wherever_its_patterns_are_placed() -> None:
    scan = a_scan(positions=240)
    judges = pick_judges(scan.positions, torch.as_tensor(scan.probe), moving=True)
    moved = replace(scan, positions=scan.positions + np.random.default_rng(0).normal(scale=4, size=(240, 2)))
    for each in (scan, moved):
        region = region_of(each, judges=judges)
        seen = np.concatenate([region.indices[batch.index.numpy()] for batch in region.judging()])
        assert np.array_equal(seen, judges.places)


def test_a_carried_object_keeps_its_patterns_where_positions_go_along() -> None:
    rows, columns = torch.arange(80.0)[:, None], torch.arange(67.0)
    y, x = rows - 2.0, columns + 3.0
    whole = torch.zeros(2, 80, 67)
    whole[0], whole[1] = 2.0, -3.0

    def waves(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.polar(1 + 0.3 * torch.sin(y / 4), 0.5 * torch.cos(x / 3 + y / 7))

    inner = (slice(8, -8), slice(8, -8))
    assert torch.allclose(carried(waves(rows, columns), whole)[inner], waves(y, x)[inner], atol=1e-5)
    bent = torch.stack([torch.sin(columns / 20).expand(80, 67), (rows / 80).expand(80, 67)])
    expected = waves(rows - bent[0], columns - bent[1])
    assert (carried(waves(rows, columns), bent) - expected)[inner].abs().max() < 0.02


def test_a_slow_distortion_of_object_and_positions_is_undone_together() -> None:
    """Where both are bent alike, patterns hardly see it; an object that goes along with its positions comes back."""
    scan = a_scan(photons=1e6, positions=196)
    region, near = region_of(scan, margin=6, moving=True), Freedom(positions=True, is_near=True, start="refined")
    true, truth = region.positions.clone(), refined(region, sweeps=15).object
    wave = 1.5 * torch.sin(2 * math.pi * true.flip(1) / 60)

    def left(carry: float) -> float:
        course = Course(region, carried(truth, smooth_field(true, wave, region.shape, sigma=4.0)), near)
        course.positions = true + wave
        with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
            patch.setattr("ptycho_torch.refinement.course.CARRY", carry)
            for sweep in range(1, 16):
                course.sweep(sweep)
        error = course.positions - true
        return float((error - error.mean(0)).square().sum(1).mean().sqrt())

    assert left(CARRY) < 0.5 * left(0.0)


def test_rounds_first_seek_positions_then_settle_then_trust_them() -> None:
    moving = Freedom(positions=True, start="network")
    plan = rounds_of(100, moving)
    assert [sweeps for sweeps, _ in plan] == [30, 20, 20, 30]
    assert [(each.positions, each.is_near) for _, each in plan] == [
        (True, False),
        (True, True),
        (True, True),
        (False, False),
    ]
    assert sum(sweeps for sweeps, _ in rounds_of(500, moving)) == 500
    assert rounds_of(69, moving) == [(69, moving)] and rounds_of(500, Freedom()) == [(500, Freedom())]


def test_the_best_offset_undoes_a_whole_pixel_error() -> None:
    scan = a_scan(photons=1e8)
    region = region_of(scan)
    obj = refined(region, sweeps=15).object
    batch = next(iter(region.batches()))
    inner = ((batch.corners > 2) & (batch.corners < torch.tensor(region.extent) - 34)).all(1)
    args = (batch.probe[inner], batch.corners[inner], batch.amplitude[inner], region.valid)
    probe, corners, amplitude, valid = args
    assert inner.any() and not best_offset(obj, probe, corners, amplitude, valid, radius=2).any()
    moved = best_offset(obj, probe, corners + torch.tensor([2, -2]), amplitude, valid, radius=2)
    assert (moved == torch.tensor([-2, 2])).all()


def test_an_affine_model_takes_only_an_affine_move() -> None:
    rng = np.random.default_rng(0)
    start = torch.as_tensor(rng.uniform(0, 100, size=(50, 2)))
    matrix, shift = torch.tensor([[1.02, 0.01], [-0.03, 0.98]], dtype=torch.float64), torch.tensor([1.0, -2.0])
    moved = start @ matrix + shift
    wild = moved + torch.randn(moved.shape, dtype=moved.dtype, generator=torch.Generator().manual_seed(0))
    design = torch.cat([start, torch.ones_like(start[:, :1])], 1)
    left = affine_moves(start, wild) - wild  # least squares: nothing is left along any column
    assert (design.mT @ left).abs().max() < 1e-8 * wild.abs().max() * len(wild)
    assert torch.allclose(affine_moves(start, moved), moved)


def test_a_flat_start_reaches_the_truth_of_a_bright_scan() -> None:
    scan = a_scan(photons=1e9)
    region = region_of(scan)
    result = refined(region, sweeps=40)
    found = scores(scan, region, result.object)
    assert found["amplitude_psnr_db"] > 38 and found["phase_psnr_db"] > 38


def test_a_refinement_never_returns_less_than_its_start() -> None:
    scan = a_scan(photons=300, seed=5)
    region = region_of(scan)
    assert scan.obj is not None
    (top, left), (height, width) = region.origin, region.extent
    truth = torch.ones(region.shape, dtype=torch.complex64)
    truth[:height, :width] = torch.as_tensor(scan.obj[top : top + height, left : left + width] / region.level)
    result = refined(region, sweeps=8, obj=truth, start="refined")
    assert result.likelihood[result.best_sweep] == min(result.likelihood) <= result.likelihood[0]
    if result.best_sweep == 0:
        assert torch.equal(result.object, truth)


@pytest.mark.parametrize("moving", [False, True])
def test_what_is_held_out_judges_and_is_not_used(moving: bool) -> None:
    scan = a_scan(positions=240)
    judges = pick_judges(scan.positions, torch.as_tensor(scan.probe), moving=moving)
    assert (len(judges.places), judges.every) == ((60, 8) if moving else (8, 1))
    dimmed = scan.patterns.copy()
    dimmed[judges.places] *= np.where(held_out_pixels(judges.places, scan.n, every=judges.every), 0.9, 1)
    options = {"mean_photons": scan.mean_photons(), "judges": judges}
    one = refined(region_of(scan, **options), sweeps=6)
    other = refined(region_of(replace(scan, patterns=dimmed), **options), sweeps=6)
    assert other.likelihood[6] > 1.5 * one.likelihood[6]
    assert one.best_sweep == other.best_sweep == 6
    assert torch.equal(one.object, other.object)


@pytest.mark.parametrize("options", [{"positions": 240, "step_px": 8.0}, {"positions": 120}])
def test_a_scan_of_little_overlap_or_few_patterns_spares_none(options: dict[str, Any]) -> None:
    scan = a_scan(**options)
    region = region_of(scan)
    assert region.judges == len(scan) // 4 and sum(len(batch.index) for batch in region.batches()) == len(scan)


def test_every_eighth_pixel_is_held_out_and_another_one_in_the_next_pattern() -> None:
    assert np.array_equal(held_out_pixels(np.arange(8), 32).sum(0), np.ones((32, 32)))
    scan = a_scan()
    region = region_of(scan, judges=pick_judges(scan.positions, torch.as_tensor(scan.probe), moving=True))
    fitted, judging = {}, {}
    for batch in region.batches():
        masks = batch.valid.expand(batch.amplitude.shape)
        fitted |= {int(index): mask for index, mask in zip(batch.index, masks, strict=True)}
    for batch in region.judging():
        judging |= {int(index): mask for index, mask in zip(batch.index, batch.valid, strict=True)}
    assert len(judging) == region.judges == 30 and len(fitted) == 120
    for index, mask in judging.items():
        assert not (mask & fitted[index]).any() and (mask | fitted[index]).all() and int(mask.sum()) == 128


def test_a_wrong_probe_is_put_right() -> None:
    scan = a_scan(photons=1e8)
    line = np.fft.fftfreq(32)
    bend = np.exp(40j * (line[:, None] ** 2 + line[None, :] ** 2))
    wrong = np.fft.ifft2(np.fft.fft2(scan.probe) * bend).astype(np.complex64)
    kept = refined(region_of(scan, wrong))
    freed = refined(region_of(scan, wrong), probe=True, sweeps=40)
    assert min(freed.likelihood) < 0.1 * min(kept.likelihood)
    region = region_of(scan, wrong)
    found = scores(scan, region, freed.object, ramp=True)
    assert found["amplitude_psnr_db"] > 28 and found["phase_psnr_db"] > 28
    assert freed.probe.abs().square().sum() == pytest.approx(float(region.probe.abs().square().sum()), rel=1e-4)


def test_three_modes_are_told_apart_by_their_power() -> None:
    scan = a_scan(modes=3, photons=1e8, positions=196)
    single = scan.probe[:1] * math.sqrt(float((np.abs(scan.probe) ** 2).sum() / (np.abs(scan.probe[:1]) ** 2).sum()))
    start = with_more_modes(torch.as_tensor(single), 3).numpy()
    result = refined(region_of(scan, start), probe=True, sweeps=80)
    power = (np.abs(scan.probe) ** 2).sum((1, 2))
    found = result.probe.abs().square().sum((1, 2))
    assert np.allclose(found / found.sum(), power / power.sum(), atol=0.05)
    alone = refined(region_of(scan, single), probe=True, sweeps=80)
    assert min(result.likelihood) < 0.3 * min(alone.likelihood)


def test_fluctuating_intensities_are_found() -> None:
    scan = a_scan(photons=1e7)
    factors = np.random.default_rng(0).uniform(0.7, 1.3, size=len(scan)).astype(np.float32)
    flickering = replace(scan, patterns=scan.patterns * np.sqrt(factors)[:, None, None])
    region = region_of(flickering, moving=True)
    result = refined(region, intensities=True)
    expected = torch.as_tensor(factors[region.indices])
    found = result.intensities / result.intensities.mean() * expected.mean()
    assert (found - expected).abs().median() < 0.01
    assert min(result.likelihood) < 0.2 * min(refined(region).likelihood)


@pytest.mark.parametrize("seed", [1, 2])
def test_wrong_positions_are_put_right_even_one_at_the_rim_that_nothing_contradicts(seed: int) -> None:
    scan = a_scan(photons=1e7, positions=196)
    errors = np.random.default_rng(seed).normal(scale=1.0, size=scan.positions.shape)
    errors[scan.positions[:, 0].argmin()] = (-6.0, 1.0)
    region = region_of(replace(scan, positions=scan.positions + errors), margin=9, moving=True)
    result = refined(region, positions=True, sweeps=60)

    def rms(positions: torch.Tensor) -> float:
        left = positions.numpy() + np.array(region.origin) - scan.positions[region.indices]
        return float(np.sqrt(np.square(left - left.mean(0)).mean()))

    assert rms(region.positions) > 0.85 and rms(result.positions) < 0.02
    assert min(result.likelihood) < 0.3 * min(refined(region).likelihood)


def test_a_stretched_scan_is_put_right_by_an_affine_map() -> None:
    scan = a_scan(photons=1e6, positions=196)
    centre = scan.positions.mean(0)
    region = region_of(
        replace(scan, positions=centre + (scan.positions - centre) * (1.05, 0.96)), subsets=4, margin=8, moving=True
    )
    found = refined(region, positions=True, affine=True, sweeps=80).positions.numpy()
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
    region = region_of(a_scan())

    def stop(sweep: int, *_: object) -> bool:
        if sweep == 3:
            raise KeyboardInterrupt
        return False

    with torch.inference_mode():
        result = refine(region, torch.ones(region.shape, dtype=torch.complex64), sweeps=30, report=stop)
    assert len(result.likelihood) == 4 and result.best_sweep > 0


def test_a_probe_is_found_from_the_patterns_alone() -> None:
    scan = a_scan(photons=1e7, positions=144)
    found = search_probe(scan)
    assert found.width > 0.4 and found.likelihoods[found.width] < 0.1 * found.likelihoods[-found.width]
    start = region_of(scan, found.probe)
    given = refined(region_of(scan), probe=True, sweeps=40)
    alone = refined(start, probe=True, sweeps=40)
    assert min(alone.likelihood) < 1.3 * min(given.likelihood)
