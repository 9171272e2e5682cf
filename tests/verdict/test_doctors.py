"""The doctors name what is wrong with a scan, and nothing where nothing is."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import ptycho_torch as pt
from ptycho_torch.data.scan import Scan
from ptycho_torch.predictors import find_predictor
from ptycho_torch.refinement.state import Unknowns
from ptycho_torch.simulation.as_scan import simulate
from ptycho_torch.verdict.causes import Cause
from ptycho_torch.verdict.doctors import Diagnosis, diagnose


@pytest.fixture(scope="module")
def right() -> Scan:
    """An asymmetric object under a curved probe."""
    return simulate(n=32, positions=100, step_px=4.0, photons=1e5, seed=3, probe_kind="zone-plate")


def moved(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Scan], Scan]:
    return lambda scan: replace(scan, positions=change(scan.positions))


def lagging(positions: np.ndarray) -> np.ndarray:
    """Pattern j was taken at position j + 1."""
    return np.concatenate([positions[:1], positions[:-1]])


def losing_frame_50(scan: Scan) -> Scan:
    kept = np.delete(np.arange(len(scan)), 50)
    return replace(
        scan, patterns=scan.patterns[kept], positions=scan.positions[:-1], nominal_positions=scan.positions[:-1]
    )


def rolled(scan: Scan) -> Scan:
    return replace(scan, patterns=np.roll(scan.patterns, (3, -5), axis=(1, 2)))


def with_a_hot_pixel(scan: Scan) -> Scan:
    patterns = scan.patterns.copy()
    patterns[:, 5, 9] = 10 * patterns.max()
    return replace(scan, patterns=patterns)


def diagnosed(scan: Scan, **options: Unknowns) -> Diagnosis:
    return diagnose(find_predictor("flat", scan).in_photons(scan), **options)


WRONG = {
    "flip y": (moved(lambda positions: positions * (-1, 1)), Cause.FLIP_Y, "--flip y"),
    "swap": (moved(lambda positions: positions[:, ::-1].copy()), Cause.SWAP_AXES, "--swap-axes"),
    "tenth": (moved(lambda positions: 0.1 * positions), Cause.UNITS, "positions x"),
    "lag": (moved(lagging), Cause.LAG, "--frame-lag 1"),
    "lost": (losing_frame_50, Cause.LAG, "--frame-lag 1@50"),
    "centre": (rolled, Cause.CENTRE, "centred patterns"),
    "hot": (with_a_hot_pixel, Cause.BAD_PIXELS, "a `mask`"),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_cause_is_named_first(name: str, right: Scan) -> None:
    change, cause, way_out = WRONG[name]
    found = diagnosed(change(right))
    assert found.reasons[0].cause == cause and found.reasons[0].way_out.startswith(way_out)
    assert not found.is_confirmed


def test_nothing_is_found_where_nothing_is_wrong(right: Scan) -> None:
    assert diagnosed(right) == Diagnosis((), True)


def test_positions_of_another_scan_have_no_relation_to_the_patterns(right: Scan) -> None:
    found = diagnosed(replace(right, positions=np.random.default_rng(0).permutation(right.positions)))
    assert found.reasons[0].cause == Cause.NO_RELATION and not found.is_confirmed


def test_what_was_freed_is_no_cause(right: Scan) -> None:
    rough = replace(right, positions=right.positions + np.random.default_rng(0).normal(0, 1, right.positions.shape))
    assert diagnosed(rough).reasons[0].cause == Cause.POSITIONS
    assert Cause.POSITIONS not in [
        reason.cause for reason in diagnosed(rough, freed=Unknowns(positions="free")).reasons
    ]


def test_too_few_patterns_are_not_tried(right: Scan) -> None:
    assert diagnosed(right.subset(np.arange(5))) == Diagnosis((), False)


def test_a_reconstruction_asks_the_doctors_only_where_it_is_not_good(right: Scan) -> None:
    lines = list[str]()
    assert pt.reconstruct(right, refine=10, say=lines.append).verdict.status == "good"
    wrong = replace(right, positions=right.positions * (-1, 1))
    result = pt.reconstruct(wrong, refine=10, say=lines.append)
    assert result.verdict.status == "bad" and result.verdict.reasons[0].cause == "flip y"
    assert sum("the doctors try" in line for line in lines) == 1
    assert not pt.reconstruct(wrong, refine=10, diagnose=False).verdict.reasons[0].cause
