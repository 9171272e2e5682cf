"""Verdicts: from figures, and on whole reconstructions, right and wrong."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ptycho_torch as pt
from ptycho_torch.data.scan import Scan
from ptycho_torch.types import Reason
from ptycho_torch.verdict.judge import CONFIRMED, THRESHOLDS, judged
from tests.scans import dense_scan


def gain(share: float) -> Any:
    """A gain over the mean pattern with one percent of photon noise."""
    return SimpleNamespace(share=share, relative_error=0.01, found=100 * share, error=1.0)


def figures(**changes: Any) -> Any:
    """Those of a right reconstruction, with changes."""
    own = SimpleNamespace(wins=1.0, expected_wins=1.0, gain=1.0)
    right = {
        "r_over_floor": 1.0,
        "r_over_null": 0.3,
        "null_over_floor": 3.0,
        "unexplained": 0.0,
        "photons": np.ones(100),
        "unexplained_error": 0.001,
        "explained": gain(1.0),
        "held_out": gain(1.0),
        "deviance_over_expected": 1.0,
        "own": own,
        "correlation": 0.98,
        "patterns_per_pixel": 6.0,
        "span_px": 80.0,
        "misfit_in_worst_pixels": 0.02,
        "misfit_in_worst_patterns": 0.02,
    }
    return SimpleNamespace(**{**right, **changes})


def test_a_right_reconstruction_is_good_without_a_reason() -> None:
    verdict = judged(figures())
    assert verdict.status == "good" and not verdict.reasons
    assert str(verdict) == "verdict good: misfit 1 x photon noise, 0.3 x a model without object"
    assert verdict.as_dict()["r_over_floor"] == 1.0


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"unexplained": 2 * THRESHOLDS.unexplained[0], "r_over_floor": 1.2}, "doubtful", "unexplained"),
        ({"unexplained": 2 * THRESHOLDS.unexplained[1], "r_over_floor": 1.9}, "bad", "unexplained"),
        ({"r_over_floor": 0.1, "null_over_floor": 0.3}, "doubtful", "no photon counts"),
        ({"r_over_floor": 0.7, "patterns_per_pixel": 1.5}, "doubtful", "too few"),
        ({"unexplained": 0.5, "unexplained_error": 0.18}, "doubtful", "unexplained"),
        ({"explained": gain(THRESHOLDS.explained[0] - 0.05)}, "doubtful", "explained"),
        ({"explained": gain(THRESHOLDS.explained[1] - 0.05)}, "bad", "explained"),
        ({"patterns_per_pixel": 0.3}, "doubtful", "undetermined"),
        ({"null_over_floor": 1.0, "held_out": gain(-0.01)}, "doubtful", "no object"),
        ({"null_over_floor": 1.0, "held_out": gain(-0.2)}, "bad", "no object"),
    ],
)
def test_each_figure_beyond_its_threshold_is_a_reason(changes: dict[str, Any], status: str, words: str) -> None:
    verdict = judged(figures(**changes))
    assert verdict.status == status
    assert len(verdict.reasons) == 1 and words in verdict.reasons[0].text


def test_where_single_patterns_differ_by_noise_only_together_they_may_show_an_object() -> None:
    assert judged(figures(null_over_floor=1.001)).status == "good"
    assert judged(figures(null_over_floor=1.001, held_out=gain(0.03))).status == "doubtful"


def test_a_large_error_by_photon_noise_is_granted() -> None:
    assert judged(figures(unexplained=0.05, unexplained_error=0.02)).status == "good"


def test_causes_come_first_and_confirmed_positions_leave_doubt_at_worst() -> None:
    bad, cause = figures(unexplained=0.5), Reason("flipping y explains more", "flip y")
    assert judged(bad).status == "bad"
    assert judged(bad, causes=(cause,)).reasons[0] == cause and judged(bad, causes=(cause,)).status == "bad"
    assert (
        judged(bad, is_confirmed=True).status == "doubtful" and judged(bad, is_confirmed=True).reasons[-1] == CONFIRMED
    )
    assert judged(bad, causes=(cause,), is_confirmed=True).status == "doubtful"


def test_fitted_noise_alone_is_no_doubt_where_the_positions_are_confirmed() -> None:
    noisy = figures(explained=gain(0.7))
    assert judged(noisy).status == "doubtful"
    assert (
        judged(noisy, is_confirmed=True).status == "good"
        and "photon noise" in judged(noisy, is_confirmed=True).reasons[0].text
    )
    assert judged(figures(explained=gain(0.3)), is_confirmed=True).status == "doubtful"


def mirrored(scan: Scan) -> Scan:
    low, high = scan.positions.min(0), scan.positions.max(0)
    return replace(scan, positions=low + high - scan.positions)


def transposed(scan: Scan) -> Scan:
    return replace(scan, positions=scan.positions[:, ::-1].copy())


def shuffled(scan: Scan) -> Scan:
    return replace(scan, positions=np.random.default_rng(0).permutation(scan.positions))


def of_noise(scan: Scan) -> Scan:
    counts = np.random.default_rng(0).poisson(np.broadcast_to(scan.mean_counts(), scan.patterns.shape))
    return replace(scan, patterns=counts.astype(np.float32), domain="counts")


@pytest.mark.parametrize("refine", [None, 8])
def test_right_scans_are_good(refine: int | None) -> None:
    verdict = pt.reconstruct(dense_scan(photons=1e5), refine=refine).verdict
    assert verdict is not None and verdict.status == "good"


@pytest.mark.parametrize("change", [mirrored, transposed, shuffled, of_noise])
def test_wrong_scans_are_bad(change: Any) -> None:
    result = pt.reconstruct(change(dense_scan(photons=1e5)), diagnose=False)
    assert result.verdict is not None and result.verdict.status == "bad"
    assert result.scores["verdict"]["status"] == "bad" and result.scores["verdict"]["reasons"]


def test_an_empty_field_of_view_is_doubtful_and_says_why() -> None:
    scan = dense_scan(photons=1e4)
    beam = np.square(np.abs(np.fft.fftshift(np.fft.fft2(scan.probe, norm="ortho"), axes=(-2, -1)))).sum(0)
    counts = np.random.default_rng(0).poisson(np.broadcast_to(beam, scan.patterns.shape)).astype(np.float32)
    verdict = pt.reconstruct(replace(scan, patterns=counts, domain="counts", obj=None)).verdict
    assert verdict is not None and verdict.status == "doubtful"
    assert "no object" in verdict.reasons[0].text
