"""A probe is in √photons or not by its own evidence, whatever a specimen absorbs."""

from dataclasses import replace

import numpy as np
import pytest

import ptycho_torch as pt
from ptycho_torch.data.scan import Scan
from ptycho_torch.predictors import find_predictor
from ptycho_torch.report.images import amplitude_label
from ptycho_torch.scale import brightest, is_calibrated, norm_of
from tests.scans import dense_scan


def absorbing(amplitude: float) -> Scan:
    """Patterns of a uniform absorber: thinned, by a specimen, not by the probe."""
    scan = dense_scan(photons=1e6)
    rng = np.random.default_rng(0)
    return replace(scan, patterns=np.sqrt(rng.poisson(amplitude**2 * scan.counts(slice(None)))).astype(np.float32))


@pytest.mark.parametrize("amplitude", [0.9, 0.45, 0.1])
def test_an_absorber_keeps_its_transmission(amplitude: float) -> None:
    free, thick = (pt.reconstruct(scan, refine=10) for scan in (dense_scan(photons=1e6), absorbing(amplitude)))
    inside = free.weight > 0.5 * free.weight.max()
    ratio = np.abs(thick.object[inside]).mean() / np.abs(free.object[inside]).mean()
    assert abs(ratio / amplitude - 1) < 0.02
    assert not thick.has_arbitrary_amplitude and amplitude_label(thick) == "amplitude (transmission)"


def test_a_probe_in_another_unit_makes_amplitudes_arbitrary_and_says_so() -> None:
    scan, lines = dense_scan(photons=1e5), list[str]()
    for factor in (1e-22, 1e-6, 1e6, 1e18):
        result = pt.reconstruct(replace(scan, probe=(scan.probe * factor).astype(np.complex64)), say=lines.append)
        assert result.has_arbitrary_amplitude and np.isfinite(result.object).all()
        assert amplitude_label(result) == "amplitude (arbitrary units)"
        assert any("photons, the brightest patterns" in line and "arbitrary units" in line for line in lines)


def test_a_declared_unit_decides() -> None:
    scan = dense_scan(photons=1e5)
    assert find_predictor("flat", replace(scan, probe_unit="arbitrary")).scale.is_arbitrary
    strong = replace(scan, probe=0.3 * scan.probe)
    assert find_predictor("flat", strong).scale.is_arbitrary
    assert not find_predictor("flat", replace(strong, probe_unit="sqrt(photons)")).scale.is_arbitrary


@pytest.mark.parametrize(("power", "is_one"), [(0.7e5, False), (0.9e5, True), (1e5, True), (3e7, True), (1e8, False)])
def test_the_power_lies_above_the_brightest_patterns(power: float, is_one: bool) -> None:
    photons = np.concatenate([np.full(80, 1e3), np.full(20, 1e5)])
    assert is_calibrated(np.sqrt(power), photons) == is_one


def test_photon_noise_and_a_few_odd_frames_make_no_pattern_bright() -> None:
    rng = np.random.default_rng(0)
    assert brightest(rng.poisson(4, 1000).astype(float)) == pytest.approx(4, rel=0.25)
    photons = np.full(144, 1e5)
    photons[:2] *= 40
    assert brightest(photons) == pytest.approx(1e5, rel=0.01)


def test_the_norm_of_a_probe_overflows_in_no_unit() -> None:
    probe = np.full((1, 4, 4), 1e19 + 0j, np.complex64)
    assert norm_of(probe) == pytest.approx(4e19, rel=1e-6)
