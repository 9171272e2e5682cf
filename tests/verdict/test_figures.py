"""Figures of a reconstruction at the truth, where their expectations are known, and away from it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho_torch.data.held_out import ValidationSet
from ptycho_torch.data.region import Region, on_canvas
from ptycho_torch.data.scan import Scan
from ptycho_torch.verdict.figures import Figures, figures_of
from ptycho_torch.verdict.own_prediction import own_prediction
from tests.scans import dense_scan


def at_the_truth(scan: Scan, *, factor: np.ndarray | None = None, positions: np.ndarray | None = None) -> Figures:
    """The figures of the true object, every pixel of every third pattern held out in eighths."""
    given = scan if positions is None else replace(scan, positions=positions)
    region = Region(given, np.arange(len(scan)), torch.as_tensor(scan.probe))
    assert scan.obj is not None
    obj = on_canvas(torch.as_tensor(scan.obj), (0, 0), region)
    intensities = None if factor is None else torch.as_tensor(factor[region.indices], dtype=torch.float32)
    validation = ValidationSet(np.arange(0, len(scan), 3), 8)
    return figures_of(obj, region, intensities=intensities, validation=validation)


@pytest.mark.parametrize("photons", [3e2, 1e4, 1e6])
def test_the_truth_leaves_photon_noise_and_gains_what_is_expected(photons: float) -> None:
    figures = at_the_truth(dense_scan(photons=photons))
    assert figures.r_over_floor == pytest.approx(1, abs=0.02)
    assert figures.deviance_over_expected == pytest.approx(1, abs=0.04)
    assert figures.unexplained < 0.05
    assert figures.fitted.share == pytest.approx(1, abs=5 * figures.fitted.relative_error)
    assert figures.held_out.share == pytest.approx(1, abs=5 * figures.held_out.relative_error)
    assert figures.own.gain == pytest.approx(1, abs=6 * figures.own.error)
    assert figures.own.wins == pytest.approx(figures.own.expected_wins, abs=0.03)


def test_unused_pixels_are_those_of_the_validation_set_and_no_others() -> None:
    figures = at_the_truth(dense_scan(photons=1e4))
    share = figures.held_out.expected / (figures.held_out.expected + figures.fitted.expected)
    assert share == pytest.approx(1 / 24, rel=0.15)


def test_noise_beyond_that_of_photons_does_not_bias_what_is_explained() -> None:
    scan = dense_scan(photons=1e5)
    counts = scan.counts(np.arange(len(scan)))
    rng = np.random.default_rng(0)
    noisier = np.maximum(counts + rng.normal(0, 1.5, counts.shape) * np.sqrt(counts), 0).astype(np.float32)
    figures = at_the_truth(replace(scan, patterns=noisier, domain="counts"))
    assert figures.r_over_floor > 1.3
    assert figures.own.gain == pytest.approx(1, abs=0.05)
    assert figures.explained.share == pytest.approx(1, abs=0.1)


def test_predictions_at_mirrored_positions_explain_less_and_win_less_often() -> None:
    scan = dense_scan(photons=1e5)
    low, high = scan.positions.min(0), scan.positions.max(0)
    right, wrong = at_the_truth(scan), at_the_truth(scan, positions=low + high - scan.positions)
    assert right.own.wins > 0.99 > 0.9 > wrong.own.wins
    assert wrong.own.gain < 0.5 < right.own.gain
    assert wrong.unexplained > 0.5 and wrong.explained.share < 0.5 and wrong.r_over_floor > 2
    assert wrong.correlation < 0.5 < right.correlation


def test_the_model_without_object_is_the_mean_pattern() -> None:
    scan = dense_scan(photons=1e5)
    counts = scan.counts(np.arange(len(scan))).astype(np.float64)
    left = np.square(np.sqrt(counts.mean(0)) - np.sqrt(counts)).sum()
    assert at_the_truth(scan).null_misfit == pytest.approx(left, rel=1e-4)


def test_intensities_belong_to_their_patterns() -> None:
    scan = dense_scan(photons=1e5)
    factor = np.linspace(1, 0.5, len(scan))
    counts = np.random.default_rng(1).poisson(scan.counts(np.arange(len(scan))) * factor[:, None, None])
    dimmer = replace(scan, patterns=counts.astype(np.float32), domain="counts")
    told, untold = at_the_truth(dimmer, factor=factor), at_the_truth(dimmer)
    assert told.r_over_floor < 1.3 < 2 < untold.r_over_floor
    assert untold.own.gain == pytest.approx(told.own.gain, abs=0.05)  # the brightness of a frame says nothing
    assert told.photons == pytest.approx(told.predicted_photons, rel=0.02)


def test_the_worst_pattern_and_the_worst_pixels_are_told() -> None:
    scan = dense_scan(photons=1e5)
    counts = scan.counts(np.arange(len(scan)))
    counts[17] *= 3
    figures = at_the_truth(replace(scan, patterns=counts, domain="counts"))
    assert figures.examples.names == ("mean of 120", figures.examples.names[1], "worst (pattern 17)")
    assert np.allclose(figures.examples.measured[2], counts[17], rtol=1e-5)
    assert figures.misfit_in_worst_patterns > 0.9
    counts = scan.counts(np.arange(len(scan)))
    counts[:, 5, 6] = 1e4
    assert at_the_truth(replace(scan, patterns=counts, domain="counts")).misfit_in_worst_pixels > 0.9


def test_a_pattern_that_all_positions_predict_alike_says_nothing() -> None:
    same = torch.full((5, 16, 16), 4.0)
    own = own_prediction(same, same, torch.ones(5, 16, 16, dtype=torch.bool), torch.rand(5, 2))
    assert own.wins == own.gain == 1 and own.error == float("inf")


def test_pixels_that_were_not_measured_count_nowhere() -> None:
    scan = dense_scan(photons=1e5)
    valid = np.ones((32, 32), bool)
    valid[10:14] = False
    counts = scan.counts(np.arange(len(scan)))
    masked = replace(scan, patterns=counts, domain="counts", valid=valid)
    spoiled = counts.copy()
    spoiled[:, 10:14] = 1e5
    one, other = at_the_truth(masked), at_the_truth(replace(masked, patterns=spoiled))
    assert one.misfit_r == other.misfit_r and one.own == other.own and one.fitted == other.fitted
