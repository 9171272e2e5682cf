"""Regions, canvases and networks: laws that hold before any training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import sparse_scan

from ptycho_torch.data.canvas import Canvas, synchronise_phases
from ptycho_torch.data.grouping import group_neighbours
from ptycho_torch.data.held_out import pick_validation_set
from ptycho_torch.data.region import Region
from ptycho_torch.data.scan import Scan
from ptycho_torch.data.subsets import network_subsets, overlap
from ptycho_torch.model import PtychoModel
from ptycho_torch.networks import unrolled
from ptycho_torch.networks.cnn import Cnn
from ptycho_torch.networks.unet import TILE, UNet, in_tiles
from ptycho_torch.networks.unrolled import (
    CHANNELS,
    Correction,
    Unrolled,
    _without_global_phase,
    gradient_of,
    held_out_factor,
)
from ptycho_torch.physics.patches import extract
from ptycho_torch.simulation import acquire, simulate_scan
from ptycho_torch.simulation.truth import as_region, relative_error
from ptycho_torch.simulation.unseen import simulated

N = 32


def everything(scan: Scan, **options: int) -> Region:
    return Region(scan, np.arange(len(scan)), torch.as_tensor(scan.probe), **options)


def truth_on(region: Region, scan: Scan) -> torch.Tensor:
    """The scan's own object on the region's canvas."""
    assert scan.obj is not None
    height, width = region.shape
    y, x = region.origin
    padded = np.ones((height + y + 99, width + x + 99), np.complex64)
    padded[: scan.obj.shape[0], : scan.obj.shape[1]] = scan.obj
    return torch.as_tensor(padded[y : y + height, x : x + width])


@pytest.mark.parametrize("modes", [1, 3])
def test_the_true_object_predicts_noise_free_counts_and_is_left_alone(modes: int) -> None:
    scan = sparse_scan(modes=modes)
    region = everything(scan, subsets=3, batch_size=7)
    truth = truth_on(region, scan)
    model = PtychoModel(Unrolled(), scale=1.0)
    for batch in region.batches():
        predicted = model.counts(truth, batch, region)
        assert torch.allclose(predicted, batch.amplitude.square(), rtol=1e-3, atol=1e-3)
    flat = region.uniform_object()
    for subset in range(3):
        assert gradient_of(truth, region, subset).norm() < 2e-2 * gradient_of(flat, region, subset).norm()


def untrained_error(photons: float, **options: int) -> float:
    """Relative square error of the sweeps alone on a well-lit scan."""
    region, truth = as_region(simulated(photons=photons, n=N, positions=225), subsets=6)
    light = region.illumination()
    with torch.inference_mode():
        obj = Unrolled(width=4, **options)(region)
    return float(relative_error(obj, truth, (light / (0.3 * light.max())).clamp(max=1)))


def test_nine_sweeps_are_nearly_enough_for_bright_light() -> None:
    assert untrained_error(1e6) < 5e-4


def test_the_fourth_stage_makes_better_use_of_few_photons(monkeypatch: pytest.MonkeyPatch) -> None:
    poisson = untrained_error(1e5, stages=4)
    monkeypatch.setattr(unrolled, "POISSON_FROM", 9)
    assert poisson < 0.95 * untrained_error(1e5, stages=4) < untrained_error(1e5)


def test_a_broad_phase_stands_before_any_training() -> None:
    """A ramp of phase much wider than the probe, on a scan so long that plain sweeps are nowhere near it."""
    made = simulate_scan(n=N, positions=200, step_px=4.3, aspect=0.4, object_kind="dead-leaves", photons=1e4, seed=3)
    y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in made.obj.shape), indexing="ij")
    broad = np.abs(made.obj) * np.exp(3j * (x**2 - 0.5 * y))
    made = acquire(broad, made.probe, positions=made.positions, photons=1e4, noise=False, rng=np.random.default_rng(0))
    scan = Scan.from_arrays(made.amplitude, made.positions, probe=made.probe, domain="amplitude", obj=made.obj)
    region = everything(scan, subsets=network_subsets(scan.positions, torch.as_tensor(scan.probe)))
    with torch.no_grad():
        obj = Unrolled()(region)
    turn = obj * truth_on(region, scan).conj()
    light = region.illumination() * turn.abs()
    assert float((light * turn / turn.abs()).sum().abs() / light.sum()) > 0.999


def test_a_correction_never_turns_the_global_phase() -> None:
    obj = torch.randn(8, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    light = torch.rand(8, 8, generator=torch.Generator().manual_seed(1))
    assert _without_global_phase(0.3j * obj, obj, light).abs().max() < 1e-6
    assert torch.allclose(_without_global_phase(0.3 * obj, obj, light), 0.3 * obj)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 70), st.integers(1, 6))
def test_batches_and_subsets_change_no_sum(batch_size: int, subsets: int) -> None:
    scan = sparse_scan()
    one, other = everything(scan, batch_size=60), everything(scan, subsets=subsets, batch_size=batch_size)
    assert sorted(other.indices) == list(range(60)) and other.subsets == subsets
    obj = torch.randn(one.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    whole = gradient_of(obj, one, 0)
    parts = torch.stack([gradient_of(obj, other, subset) for subset in range(subsets)]).sum(0)
    assert torch.allclose(parts, whole, rtol=1e-3, atol=1e-3 * whole.abs().max())
    assert torch.allclose(one.illumination(), other.illumination(), rtol=1e-4)


def test_a_network_s_object_follows_flux_and_probe_as_physics_says() -> None:
    scan = sparse_scan(noise=True)
    network = Unrolled(width=4)
    torch.nn.init.normal_(network.denoisers[0].unet.last.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    model = PtychoModel(network, scale=2.0)

    def reconstruct(amplitude: float, probe: float) -> torch.Tensor:
        scaled = Scan.from_arrays(
            scan.patterns * amplitude, scan.positions, probe=scan.probe * probe, domain="amplitude"
        )
        with torch.inference_mode():
            return model(everything(scaled, subsets=2))

    plain = reconstruct(1, 1)
    assert torch.allclose(reconstruct(8, 8), plain, rtol=1e-3, atol=1e-3)
    assert torch.allclose(reconstruct(8, 1), 8 * plain, rtol=1e-3, atol=1e-2)
    assert torch.allclose(reconstruct(1, 4), plain / 4, rtol=1e-3, atol=1e-3)


def test_the_last_stage_goes_on_from_the_mean_of_its_sweep_the_others_from_where_they_are() -> None:
    region = everything(sparse_scan(noise=True), subsets=4)
    with torch.no_grad():
        behind = [seen[6:8].abs().max() for seen, _ in Unrolled(width=4).stages(region)]
    assert behind[0] > 1e-3 and behind[1] > 1e-3 and behind[2] == 0


@pytest.mark.parametrize(("missing", "share"), [(1.5, 1.5), (0.6, 0.6), (-1.0, 0.0), (3.0, 2.0)])
def test_a_move_goes_as_far_as_what_is_held_out_finds_likeliest(missing: float, share: float) -> None:
    scan = simulated(photons=1e7, n=32, positions=64)
    region, truth = as_region(scan, validation=pick_validation_set(scan.positions, torch.as_tensor(scan.probe)))
    waves = torch.randn(region.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = held_out_factor(region, truth - missing * 0.03 * waves, 0.03 * waves)
    assert float(found) == pytest.approx(share, abs=0.06)


def test_what_is_held_out_holds_a_wrong_correction_back_in_bright_light_only() -> None:
    def error(photons: float, *, held_out: bool) -> float:
        scan = simulated(photons=photons, n=32, positions=64)
        validation = pick_validation_set(scan.positions, torch.as_tensor(scan.probe)) if held_out else None
        region, truth = as_region(scan, subsets=2, validation=validation)
        torch.manual_seed(0)
        network = Unrolled(width=4)
        last = network.denoisers[-1].unet.last  # type: ignore[union-attr]
        torch.nn.init.normal_(last.weight, std=50.0, generator=torch.Generator().manual_seed(0))
        light = region.illumination()
        with torch.inference_mode():
            obj = network(region)
        return float(relative_error(obj, truth, (light / (0.3 * light.max())).clamp(max=1)))

    assert error(1e7, held_out=True) < 0.5 * error(1e7, held_out=False)
    assert error(300, held_out=True) == pytest.approx(error(300, held_out=False), rel=0.1)


def test_a_correction_is_proportional_to_the_updates() -> None:
    correction = Correction(width=4, levels=2)
    torch.nn.init.normal_(correction.unet.last.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    seen = torch.randn(1, len(CHANNELS), 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        padding = correction(torch.zeros_like(seen))
        assert padding.isfinite().all() and padding.abs().max() < 1e-3
        seen[:, -1] = 0.1
        loud = correction(seen)
        seen[:, 2:8], seen[:, -1] = 0.01 * seen[:, 2:8], 0.001
        quiet = correction(seen)
    assert quiet.abs().mean() < 0.05 * loud.abs().mean()


def test_pixels_that_were_not_measured_do_not_act() -> None:
    scan = sparse_scan()
    valid = np.ones((N, N), bool)
    valid[3, 5] = valid[N // 2, N // 2] = False
    objects = []
    for wrong in (0, 1e4):
        patterns = scan.patterns.copy()
        patterns[:, ~valid] = wrong
        spoiled = Scan.from_arrays(patterns, scan.positions, probe=scan.probe, domain="amplitude", valid=valid)
        with torch.inference_mode():
            objects.append(PtychoModel(Unrolled(width=4), scale=1.0)(everything(spoiled)))
    assert torch.equal(*objects)


def test_training_moves_every_weight_and_learns() -> None:
    scan = sparse_scan(noise=True)
    torch.manual_seed(0)
    model = PtychoModel(Unrolled(width=4, stages=2, sweeps=1), scale=3.0, learn_scale=True)
    region = everything(scan, subsets=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        terms = model.loss(region)
        terms["loss"].backward()
        optimizer.step()
        losses.append(float(terms["likelihood"]))
    assert losses[-1] < 0.95 * losses[0]
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, name


def test_tiles_make_the_picture_that_the_whole_makes() -> None:
    net = UNet(7, 2, width=4)
    torch.nn.init.normal_(net.last.weight, std=0.1)
    seen = torch.randn(7, TILE + 88, 2 * TILE + 40)
    with torch.inference_mode():
        whole, tiled = net(seen[None])[0], in_tiles(net, seen)
    assert torch.allclose(whole, tiled, atol=1e-4)


def test_the_reach_of_a_unet_is_not_understated() -> None:
    torch.manual_seed(0)
    net = UNet(1, 1, width=8)
    torch.nn.init.normal_(net.last.weight)
    seen = torch.rand(1, 1, 160, 160, requires_grad=True)
    net(seen)[0, 0, 80, 80].backward()
    assert seen.grad is not None
    rows = torch.nonzero(seen.grad[0, 0].abs().sum(1)).flatten()
    assert len(rows) > net.reach
    assert 80 - net.reach <= rows.min() and rows.max() <= 80 + net.reach


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 5))
def test_one_pass_chunks_and_merged_ranks_fill_the_same_canvas(seed: int, chunks: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    positions = 10 + 30 * torch.rand(12, 2, dtype=torch.float64, generator=rng)
    patches = torch.randn(12, 8, 8, dtype=torch.complex64, generator=rng)
    weight = 0.1 + torch.rand(8, 8, generator=rng)
    once = Canvas.around(positions, 8).add(patches, positions, weight)
    stream, merged = Canvas.around(positions, 8), None
    for some in torch.arange(12).chunk(chunks):
        stream = stream.add(patches[some], positions[some], weight)
        rank = Canvas.around(positions[some], 8).add(patches[some], positions[some], weight)
        merged = rank if merged is None else rank.merge(merged)
    assert merged is not None and merged.origin == once.origin
    for other in (stream, merged):
        assert torch.allclose(other.summed, once.summed, atol=1e-4) and torch.allclose(
            other.weight, once.weight, atol=1e-4
        )


def test_patches_of_one_object_with_phases_of_their_own_are_brought_together() -> None:
    scan = sparse_scan()
    assert scan.obj is not None
    positions = torch.as_tensor(scan.positions).round()
    obj = torch.as_tensor(scan.obj)
    patches = extract(obj, positions, N)
    turns = torch.polar(torch.ones(60), 6.28 * torch.rand(60, generator=torch.Generator().manual_seed(2)))
    weight = torch.ones(N, N)
    canvas = Canvas.empty((0, 0), (obj.shape[0], obj.shape[1]))
    phases = synchronise_phases(patches * turns[:, None, None], positions, weight, canvas, rounds=30)
    left = turns / phases
    assert (left / left[0] - 1).abs().max() < 0.05


@pytest.mark.parametrize("n, group_size, millions", [(64, 1, 2.3), (100, 4, 2.3), (128, 1, 2.4)])
def test_the_encoder_decoder_predicts_patches_of_any_size(n: int, group_size: int, millions: float) -> None:
    network = Cnn(n, group_size=group_size)
    with torch.inference_mode():
        patches = network.patches(torch.rand(4, n, n))
    assert patches.shape == (4, n, n) and patches.dtype == torch.complex64
    assert 0.5 < float(patches.abs().mean()) < 2
    assert sum(weight.numel() for weight in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_the_encoder_decoder_learns_in_groups() -> None:
    scan = sparse_scan(noise=True)
    torch.manual_seed(0)
    chosen = group_neighbours(scan.positions, 4)[:4].reshape(-1)
    region = Region(scan, chosen, torch.as_tensor(scan.probe), batch_size=16)
    model = PtychoModel(Cnn(N, group_size=4), scale=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        terms = model.loss(region)
        terms["loss"].backward()
        optimizer.step()
        losses.append(float(terms["likelihood"]))
    assert losses[-1] < losses[0]


def test_overlap_counts_the_patterns_that_light_a_pixel() -> None:
    flat = torch.zeros(1, 16, 16, dtype=torch.complex64)
    flat[:, 4:12, 4:12] = 1
    y, x = np.meshgrid(np.arange(12) * 4.0, np.arange(12) * 4.0, indexing="ij")
    positions = np.stack([y.ravel(), x.ravel()], 1)
    assert overlap(positions, flat) == pytest.approx(4, rel=0.1)
    assert network_subsets(positions * 0.75, flat) == 3
    assert network_subsets(positions * 4, flat) == 1
