"""How the positions lie is found from the patterns, whatever the mixture of flips, rotation and lag."""

from dataclasses import replace

import numpy as np
import pytest

import ptycho_torch as pt
from ptycho_torch.data.geometry import turned
from ptycho_torch.data.scan import Scan
from ptycho_torch.predictors import find_predictor
from ptycho_torch.simulation.as_scan import simulate
from ptycho_torch.verdict.deflection import deflections, relations
from ptycho_torch.verdict.orientation import DEFLECTIONS, NOTHING, TRIALS, Found, Lie, find_orientation


@pytest.fixture(scope="module")
def right() -> Scan:
    """An asymmetric object under a curved probe that isn't its own twin."""
    return simulate(n=32, positions=160, step_px=4.0, photons=1e5, seed=3, probe_kind="zone-plate")


def taken_apart(scan: Scan, lie: Lie) -> Scan:
    """The scan whose cure is this."""
    kept = np.arange(abs(lie.lag), len(scan) - abs(lie.lag))
    positions = ((scan.positions - scan.positions.mean(0)) @ lie.matrix)[kept - lie.lag]
    return replace(scan.subset(kept), positions=positions, nominal_positions=positions)


def found_in(scan: Scan) -> Found:
    return find_orientation(find_predictor("flat", scan).in_photons(scan))


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("flip", ["", "x", "y", "xy"])
@pytest.mark.parametrize("degrees", [0, 12.5, -34, 44])
def test_a_lie_is_its_matrix(swap: bool, flip: str, degrees: float, right: Scan) -> None:
    """turned(scan, …) multiplies all differences of positions by M, and M gives the flags back."""
    lie = Lie(0, swap, flip, degrees)
    assert Lie.of(lie.matrix, 0) == lie
    differences = np.diff(lie.applied(right).positions, axis=0)
    np.testing.assert_allclose(differences, np.diff(right.positions, axis=0) @ lie.matrix.T, atol=1e-9)
    if lie != Lie():
        words = {"--swap-axes": swap, f"--flip {flip}": flip, f"--rotation {degrees:g}deg": degrees}
        assert str(lie) == " ".join(word for word, given in words.items() if given)


def test_a_rotation_is_from_x_towards_y(right: Scan) -> None:
    two = replace(right.subset(np.arange(2)), positions=np.array([[0.0, 0.0], [0.0, 2.0]]))
    np.testing.assert_allclose(np.diff(turned(two, rotation="90deg").positions, axis=0), [[2, 0]], atol=1e-12)


@pytest.mark.parametrize(
    "lie",
    [
        Lie(),
        Lie(lag=-2),
        Lie(swap=True, lag=1),
        Lie(flip="y", degrees=30),
        Lie(flip="xy"),
        Lie(swap=True, flip="x", degrees=30, lag=-1),
    ],
    ids=str,
)
def test_the_lie_is_found(right: Scan, lie: Lie) -> None:
    found = found_in(taken_apart(right, lie))
    assert found.by == TRIALS and not found.twin_remains
    assert (found.lie.lag, found.lie.swap, found.lie.flip) == (lie.lag, lie.swap, lie.flip)
    assert found.lie.degrees == pytest.approx(lie.degrees, abs=3)
    assert found.is_change == (lie != Lie()) and found.sweeps <= 30


def test_without_a_probe_the_deflections_tell_up_to_the_twin(right: Scan) -> None:
    for lie, simplest in ((Lie(), ""), (Lie(swap=True, flip="xy", lag=1), "--swap-axes --frame-lag 1")):
        wrong = taken_apart(right, lie)
        unknown = Scan.from_arrays(wrong.counts(np.arange(len(wrong))), wrong.positions, domain="counts")
        found = found_in(unknown)
        assert found.by == DEFLECTIONS and found.nats > 25 and found.twin_remains and "twin" in found.text
        assert str(found.lie) == (simplest or "as given")


def test_with_a_wrong_probe_the_deflections_tell(right: Scan) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=right.probe.shape) + 1j * rng.normal(size=right.probe.shape)
    wrong = replace(
        taken_apart(right, Lie(swap=True)), probe=(noise * np.abs(right.probe).max() / 4).astype(np.complex64)
    )
    found = found_in(wrong)
    assert found.by == DEFLECTIONS and str(found.lie) == "--swap-axes"


def test_patterns_that_do_not_belong_to_the_positions_tell_nothing(right: Scan) -> None:
    order = np.random.default_rng(0).permutation(len(right))
    shuffled = replace(right, positions=right.positions[order], nominal_positions=right.positions[order])
    assert not found_in(shuffled).is_change
    unknown = Scan.from_arrays(right.counts(np.arange(len(right))), shuffled.positions, domain="counts")
    assert found_in(unknown).by == NOTHING


def test_deflections_are_the_gradient_of_the_phase() -> None:
    """A weak phase φ under a probe P: the centre of mass is N/2π · ∫|P|²∇φ / ∫|P|²."""
    n, k = 32, 2 * np.pi / 64
    y, x = np.mgrid[:n, :n] - n // 2
    probe = np.exp(-(y**2 + x**2) / 32.0)
    places = np.array([[0.0, 3.0], [5.0, -2.0], [9.0, 4.0]])
    waves = [probe * np.exp(0.05j * np.sin(k * (y + r[0] + 2 * (x + r[1])))) for r in places]
    counts = np.stack([np.abs(np.fft.fftshift(np.fft.fft2(wave))) ** 2 for wave in waves]).astype(np.float32)
    scan = Scan.from_arrays(counts, places, probe=probe.astype(np.complex64), domain="counts", trust_detector=True)
    slopes = np.stack([0.05 * k * np.cos(k * (y + r[0] + 2 * (x + r[1]))) for r in places])
    mean = (slopes * probe**2).sum((1, 2)) / (probe**2).sum() * n / (2 * np.pi)
    expected = np.stack([mean, 2 * mean], axis=1)
    np.testing.assert_allclose(deflections(scan, np.arange(3)), expected - expected.mean(0), rtol=1e-3, atol=1e-5)


def test_the_likeliest_relation_leaves_a_gradient(right: Scan) -> None:
    chosen = np.arange(2, len(right) - 2)
    turn = Lie(flip="x", degrees=25)
    ranked, given = relations(taken_apart(right, turn).positions, deflections(right, chosen), chosen, (-1, 0, 1))
    best = Lie.of(ranked[0].matrix, ranked[0].lag)
    best = min(best, best.turned(180), key=lambda each: each.flip != "x")
    assert (best.lag, best.flip, best.swap) == (0, "x", False) and best.degrees == pytest.approx(25, abs=3)
    assert ranked[0].log_likelihood > ranked[1].log_likelihood + 60 > given.log_likelihood


def test_a_lie_without_a_unit_is_refused(right: Scan) -> None:
    with pytest.raises(pt.UsageError, match="--rotation -34deg"):
        turned(right, rotation="-34")
