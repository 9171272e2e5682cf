"""Pixels, values and frames that hold no counts are found, said and left out; clean scans are left alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import ptycho_torch as pt
from ptycho_torch.data.detector import surveyed
from ptycho_torch.data.region import Region
from ptycho_torch.data.scan import Scan
from ptycho_torch.metrics import align
from ptycho_torch.simulation.acquire import acquire, object_shape
from ptycho_torch.simulation.scan_paths import SCAN_PATHS
from ptycho_torch.simulation.variety import random_object, random_probe
from tests.scans import dense_scan


@pytest.fixture(scope="module")
def clean() -> Scan:
    return dense_scan(photons=1e5)


def counts_of(scan: Scan) -> np.ndarray:
    return scan.counts(slice(None))


def given(scan: Scan, counts: np.ndarray, **known: Any) -> Scan:
    """A scan of other counts, read like one of a user."""
    known = {"domain": "counts", "valid": scan.valid, **known}
    return Scan.from_arrays(counts, scan.positions, probe=scan.probe, obj=scan.obj, **known)


def gap(counts: np.ndarray) -> np.ndarray:
    pixels = np.zeros(counts.shape[1:], bool)
    pixels[20:22], pixels[:, 10] = True, True
    return pixels


def with_gap(value: float, kind: type[np.generic]) -> Callable[[np.ndarray], np.ndarray]:
    def change(counts: np.ndarray) -> np.ndarray:
        changed = counts.astype(kind)
        changed[:, gap(counts)] = value
        return changed

    return change


def with_hot_pixels(counts: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    counts[:, 4, 25] = 30000 + rng.integers(0, 99, len(counts))
    counts[:, 22, 6] = 8000
    counts[:, 9, 9] = 20000 * rng.integers(0, 2, len(counts))  # flickers
    return counts


def with_rays(counts: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    counts[rng.integers(0, len(counts), 12), rng.integers(0, 32, 12), rng.integers(0, 32, 12)] = 1e6
    return counts


def with_dead_pixels(counts: np.ndarray) -> np.ndarray:
    counts[:, 15, 17], counts[:, 12:14] = 0, 0
    return counts


def clipped(counts: np.ndarray) -> np.ndarray:
    return np.minimum(counts, np.rint(counts.max() / 2))


def dumped(counts: np.ndarray) -> np.ndarray:
    counts[50:62] = np.random.default_rng(2).poisson(0.002 * counts[50:62])
    return counts


def burst(counts: np.ndarray) -> np.ndarray:
    counts[[30, 77]] *= 40
    return counts


def decaying(counts: np.ndarray) -> np.ndarray:
    share = np.linspace(1, 0.4, len(counts))[:, None, None]
    return np.random.default_rng(3).binomial(counts.astype(np.int64), share).astype(np.float32)


FAULTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "65535": (with_gap(65535, np.uint16), "94 bad pixels"),
    "4294967295": (with_gap(2**32 - 1, np.uint32), "94 bad pixels"),
    "-1": (with_gap(-1, np.int32), "94 bad pixels"),
    "NaN": (with_gap(np.nan, np.float32), "94 bad pixels"),
    "65535.0": (with_gap(65535, np.float32), "94 bad pixels"),
    "hot": (with_hot_pixels, "1 hot pixel ((4, 25))"),
    "rays": (with_rays, "12 single values"),
    "dead": (with_dead_pixels, "65 dead pixels"),
    "saturated": (clipped, "saturated"),
    "dump": (dumped, "12 dark frames (50–61)"),
    "burst": (burst, "2 bright frames (30, 77)"),
}


def likeness(result: pt.Reconstruction, clean: pt.Reconstruction) -> float:
    """Correlation of two objects on the well-lit part of the second."""
    y, x = (a - b for a, b in zip(clean.origin, result.origin, strict=True))
    height, width = clean.object.shape
    obj = np.pad(result.object, 40, constant_values=1)[y + 40 : y + 40 + height, x + 40 : x + 40 + width]
    box = (slice(16, -16), slice(16, -16))
    ours, reference = align(obj[box], clean.object[box], ramp=True), clean.object[box]
    return float(abs(np.vdot(ours, reference)) / np.linalg.norm(ours) / np.linalg.norm(reference))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_said_and_costs_little(name: str, clean: Scan) -> None:
    change, words = FAULTS[name]
    scan = given(clean, change(counts_of(clean)))
    assert any(words in note for note in scan.notes), scan.notes
    assert likeness(pt.reconstruct(scan, refine=8), pt.reconstruct(clean, refine=8)) > 0.99


def test_what_saturates_was_that_bright_at_least(clean: Scan) -> None:
    counts = counts_of(clean)
    scan = given(clean, clipped(counts))
    ceiling = clipped(counts).max()
    least = scan.least_amplitude(slice(None))
    assert scan.ceiling == ceiling and least is not None
    assert np.array_equal(least, np.where(counts >= ceiling, np.sqrt(ceiling), 0).astype(np.float32))
    part = np.arange(3, 40, 2)
    region = Region(scan.subset(part), np.arange(len(part)), torch.as_tensor(scan.probe))
    batch = region.pick(np.arange(len(part)))
    assert batch.least is not None and np.array_equal(batch.least.numpy(), least[part[region.indices]])
    assert not batch.valid[batch.least > 0].any()
    assert clean.least_amplitude(slice(None)) is None


def test_two_rays_in_one_pattern_are_no_bright_frame(clean: Scan) -> None:
    counts = counts_of(clean)
    counts[40, 5, 5], counts[40, 20, 25] = 1e6, 2e6
    scan = given(clean, counts)
    assert scan.intensities is None and "2 single values" in scan.notes[0] and len(scan.notes) == 1


def test_light_beside_a_gap_is_no_hot_pixel(clean: Scan) -> None:
    mask = np.ones((32, 32), bool)
    mask[15:19, 10:22] = False
    assert not given(clean, counts_of(clean), valid=mask).notes


def test_a_trusted_detector_is_not_looked_at(clean: Scan) -> None:
    scan = given(clean, with_hot_pixels(counts_of(clean)), trust_detector=True)
    assert scan.valid.all() and scan.valid_values is None and not scan.notes


@pytest.mark.parametrize("seed", range(20))
def test_clean_scans_get_no_line(seed: int) -> None:
    """Over dose, size, probe and object: noise, sharp beams and absorbing specimens are no faults."""
    rng = np.random.default_rng(seed)
    n, photons = int(rng.choice([32, 64])), float(10 ** rng.uniform(2, 8))
    probe = random_probe(n, rng=rng)[None]
    positions = SCAN_PATHS["raster"](64, step_px=n / 9, aspect=1.0, rng=rng)
    positions = positions + n - positions.min(axis=0)
    obj = random_object(object_shape(positions, n), rng=rng)
    made = acquire(obj, probe, positions=positions, photons=photons, noise=True, rng=rng)
    scan = Scan.from_arrays(made.amplitude**2, positions, probe=made.probe, domain="counts")
    assert not scan.notes and scan.valid.all() and len(scan) == 64


def test_a_decaying_beam_is_told_from_an_absorbing_wedge(clean: Scan) -> None:
    lines = list[str]()
    decayed = given(clean, decaying(counts_of(clean)))
    result = pt.reconstruct(decayed, refine=8, say=lines.append)
    assert any("which is the beam's" in line for line in lines)
    assert result.intensities is not None
    early, late = (
        result.intensities[part].mean() for part in (result.pattern_indices < 20, result.pattern_indices > 99)
    )
    assert late < 0.7 * early
    assert likeness(result, pt.reconstruct(clean, refine=8)) > 0.98
    lines.clear()
    wedge = np.exp(-0.4 * np.linspace(1, 0, clean.obj.shape[0]))[:, None]
    made = acquire(
        clean.obj * wedge, clean.probe, positions=clean.positions, photons=1e5, noise=True, rng=np.random.default_rng(7)
    )
    absorbed = given(clean, made.amplitude**2)
    assert absorbed.drift is not None
    pt.reconstruct(absorbed, say=lines.append)
    assert not any("the beam" in line for line in lines if "steadily" in line)


def test_a_drift_is_read_beside_a_trend_and_edges_of_the_specimen() -> None:
    rng, n = np.random.default_rng(0), 8
    positions = rng.uniform(0, 80, (256, 2))
    positions = positions[np.argsort(positions[:, 0] + rng.uniform(0, 80, 256))]  # downwards, on the whole
    specimen = np.exp(-0.8 * positions[:, 0] / 80) * np.where(positions[:, 1] > 40, 0.3, 1.0)
    for beam in (np.linspace(1, 0.5, 256), np.ones(256)):
        photons = 100 * rng.uniform(0.5, 1.5, (256, n, n)) * (specimen * beam)[:, None, None]
        counts = rng.poisson(photons).astype(np.float32)
        found = surveyed(counts, positions, np.ones((n, n), bool), domain="counts", beam=None)
        if beam[-1] == 1:
            assert found.drift is None
        else:
            assert found.drift is not None
            assert np.abs(found.drift / beam - 1).max() < 0.1


def test_frames_behind_an_opaque_part_are_data(clean: Scan) -> None:
    obj = clean.obj.copy()
    obj[: obj.shape[0] * 3 // 5] *= 1e-3
    made = acquire(obj, clean.probe, positions=clean.positions, photons=2e4, noise=True, rng=np.random.default_rng(7))
    scan = given(clean, made.amplitude**2)
    assert (scan.photons() < 0.2 * np.median(scan.photons())).any()
    assert len(scan) == len(clean) and scan.intensities is None


def test_an_empty_frame_is_left_out_in_a_bright_scan_and_kept_in_a_dim_one(clean: Scan) -> None:
    counts = counts_of(clean)
    counts[40] = 0
    bright = given(clean, counts)
    assert len(bright) == len(clean) - 1 and "1 dark frame (40)" in bright.notes[0]
    dim = given(clean, np.random.default_rng(0).poisson(2e-5 * counts_of(clean)).astype(np.float32))
    assert len(dim) == len(clean) and not dim.notes
    assert (dim.photons() == 0).any() and np.isfinite(pt.reconstruct(dim, refine=2).object).all()


def test_a_mask_in_the_other_polarity_is_turned_round(clean: Scan) -> None:
    mask = np.ones((32, 32), bool)
    mask[20:22] = False
    scan = given(clean, counts_of(clean), valid=~mask)
    assert np.array_equal(scan.valid, mask) and "the other way round" in scan.notes[0]


def test_values_that_are_not_measured_in_one_pattern_are_masked_there_alone(clean: Scan) -> None:
    values = np.ones(clean.patterns.shape, bool)
    values[3, 16, 16] = False
    scan = given(clean, counts_of(clean), valid=values)
    assert scan.valid.all() and scan.counts(3)[16, 16] == 0 < scan.counts(4)[16, 16]
    region = Region(scan, np.arange(5), torch.as_tensor(scan.probe))
    batch = next(region.batches())
    assert not batch.valid[batch.index == 3][0, 16, 16] and batch.valid[batch.index == 4][0, 16, 16]
    assert scan.subset(np.array([3])).counts(0)[16, 16] == 0
    assert scan.mean_counts()[16, 16] > 0.99 * np.delete(scan.counts(slice(None))[:, 16, 16], 3).mean()


def test_a_weak_beam_weakens_the_probe_and_a_bright_one_the_counts(clean: Scan) -> None:
    factors = np.ones(len(clean), np.float32)
    factors[5], factors[6] = 0.25, 40
    scan = replace(clean, intensities=factors)
    region, usual = (Region(each, np.arange(8), torch.as_tensor(clean.probe)) for each in (scan, clean))
    for batch, other in zip(region.batches(), usual.batches(), strict=True):
        for place, number in enumerate(batch.index.tolist()):
            weaker = 0.5 if region.indices[number] == 5 else 1.0
            torch.testing.assert_close(batch.probe[place], weaker * other.probe[place])
    np.testing.assert_allclose(scan.counts(6), clean.counts(6) / 40, rtol=1e-6)
