"""Scores follow their closed forms, ignore what data can't fix, and ignore nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from ptycho_torch import metrics
from ptycho_torch.errors import DataError
from ptycho_torch.evaluation import evaluate
from ptycho_torch.simulation import OBJECTS


def sample(shape: tuple[int, int] = (60, 84), seed: int = 1) -> np.ndarray:
    return OBJECTS["dead-leaves"](shape, rng=np.random.default_rng(seed))


def noisy(obj: np.ndarray, level: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return obj + level * (rng.standard_normal(obj.shape) + 1j * rng.standard_normal(obj.shape))


def ramp(shape: tuple[int, int], slope: tuple[float, float]) -> np.ndarray:
    y, x = np.indices(shape)
    return np.exp(1j * (slope[0] * y + slope[1] * x))


def scores(recon: np.ndarray, truth: np.ndarray, **options) -> np.ndarray:
    result = metrics.compare(recon, truth, **options)
    return np.array([value for value in result.values() if isinstance(value, float)])


# --- alignment


@settings(max_examples=15)
@given(angle=st.floats(-10, 10))
def test_scores_do_not_see_the_global_phase(angle: float) -> None:
    truth = sample()
    recon = noisy(truth, 0.05)
    np.testing.assert_allclose(scores(recon * np.exp(1j * angle), truth), scores(recon, truth), rtol=1e-9, atol=1e-9)


def test_scores_see_the_amplitude_scale_unless_asked() -> None:
    truth = sample()
    recon = noisy(truth, 0.02)
    plain, doubled = metrics.compare(recon, truth), metrics.compare(2 * recon, truth)
    assert doubled["amplitude_psnr_db"] < plain["amplitude_psnr_db"] - 10
    assert doubled["amplitude_mean_ratio"] == pytest.approx(2 * plain["amplitude_mean_ratio"])
    for scale in ("amplitude", "complex"):
        np.testing.assert_allclose(scores(2 * recon, truth, scale=scale), scores(recon, truth, scale=scale), rtol=1e-9)


def test_the_complex_factor_is_the_least_squares_one() -> None:
    truth, recon = sample(), noisy(sample(), 0.2)
    best = metrics.align(recon, truth, scale="complex")
    error = np.linalg.norm(best - truth)
    for factor in (1.001, 0.999, np.exp(0.001j), np.exp(-0.001j)):
        assert np.linalg.norm(factor * best - truth) > error


@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.013, -0.4), (-1.9, 2.7), (0.002, 0.0007)])
def test_a_ramp_is_removed_exactly(slope: tuple[float, float]) -> None:
    truth = sample()
    assert not np.allclose(np.abs(truth), np.abs(truth[::-1, ::-1]))
    recon = truth * ramp(truth.shape, slope) * np.exp(0.3j)
    np.testing.assert_allclose(metrics.phase_ramp(recon, truth), slope, atol=1e-9)
    np.testing.assert_allclose(metrics.align(recon, truth, ramp=True), truth, atol=1e-7)


def test_a_ramp_is_found_through_noise_and_stays_when_not_asked_for() -> None:
    truth = sample()
    recon = noisy(truth, 0.5) * ramp(truth.shape, (0.21, -0.13))
    np.testing.assert_allclose(metrics.phase_ramp(recon, truth), (0.21, -0.13), atol=2e-3)
    assert metrics.compare(recon, truth)["phase_psnr_db"] < metrics.compare(recon, truth, ramp=True)["phase_psnr_db"]


# --- regions


def test_nothing_outside_the_mask_has_any_influence() -> None:
    truth = sample()
    recon = noisy(truth, 0.1) * ramp(truth.shape, (0.02, 0.01))
    mask = np.zeros(truth.shape, bool)
    mask[10:50, 20:70] = True
    mask[10:14, 20:30] = False
    spoiled, spoiled_truth = recon.copy(), truth.copy()
    spoiled[~mask], spoiled_truth[~mask] = 7 - 5j, -2

    def numbers(a: np.ndarray, b: np.ndarray) -> list[float]:
        z = metrics.align(a, b, ramp=True, scale="amplitude", mask=mask)
        phase, true_phase = metrics.phases(z, b, mask=mask)
        return [
            metrics.amplitude_psnr(z, b, mask=mask),
            metrics.phase_psnr(z, b, mask=mask),
            metrics.ssim(np.abs(z), np.abs(b), mask=mask),
            metrics.pearson(phase, true_phase, mask=mask),
            metrics.band_passed_pearson(phase, true_phase, mask=mask),
            *metrics.collapse_report(z, b, mask=mask).values(),
        ]

    np.testing.assert_allclose(numbers(spoiled, spoiled_truth), numbers(recon, truth), rtol=1e-9)


def test_a_rectangular_mask_equals_a_cut() -> None:
    truth, recon = sample(), noisy(sample(), 0.1)
    region = np.s_[11:40, 5:61]
    mask = np.zeros(truth.shape, bool)
    mask[region] = True
    whole = metrics.align(recon, truth, mask=mask)
    cut = metrics.align(recon[region], truth[region])
    np.testing.assert_allclose(whole[region], cut)
    assert metrics.phase_psnr(whole, truth, mask=mask) == pytest.approx(metrics.phase_psnr(cut, truth[region]))
    a, b = np.abs(whole), np.abs(truth)
    assert metrics.ssim(a, b, mask=mask) == pytest.approx(metrics.ssim(a[region], b[region]))
    assert metrics.band_passed_pearson(a, b, mask=mask) == pytest.approx(
        metrics.band_passed_pearson(a[region], b[region])
    )


def test_the_scored_region_spans_the_positions_less_the_inset() -> None:
    positions = np.array([[10.2, 100.0], [60.9, 50.5], [30.0, 70.0]])
    assert metrics.scored_region(positions, 8) == (slice(19, 53), slice(59, 93))
    assert metrics.scored_region(positions, 0) == (slice(11, 61), slice(51, 101))
    with pytest.raises(ValueError, match="inset of 30 px"):
        metrics.scored_region(positions, 30)


# --- images


def test_psnr_of_a_known_error() -> None:
    truth = sample()
    sign = np.where(np.indices(truth.shape).sum(axis=0) % 2, 1, -1)
    recon = (np.abs(truth) + 0.01 * sign) * np.exp(1j * (np.angle(truth) + 0.05 * sign))
    assert metrics.amplitude_psnr(recon, truth, data_range=1.0) == pytest.approx(40)
    assert metrics.amplitude_psnr(recon, truth) == pytest.approx(20 * np.log10(np.ptp(np.abs(truth)) / 0.01))
    assert metrics.phase_psnr(recon, truth, data_range=2.0) == pytest.approx(20 * np.log10(2 / 0.05))
    assert metrics.amplitude_psnr(truth, truth) == np.inf


def test_the_phase_error_is_wrapped() -> None:
    truth = np.exp(1j * np.linspace(-3.1, 3.1, 400).reshape(20, 20))
    recon = truth * np.exp(0.1j)
    np.testing.assert_allclose(metrics.wrapped_phase_error(recon, truth), 0.1)
    phase, true_phase = metrics.phases(recon, truth)
    np.testing.assert_allclose(phase - true_phase, 0.1)
    assert metrics.phase_psnr(recon, truth, data_range=1.0) == pytest.approx(20)


def test_ssim_is_scikit_images() -> None:
    a, b = np.abs(noisy(sample(), 0.1)), np.abs(sample())
    assert metrics.ssim(a, b) == pytest.approx(structural_similarity(b, a, data_range=np.ptp(b)))
    assert metrics.ssim(b, b) == pytest.approx(1)


def test_pearson_has_closed_forms() -> None:
    a = np.abs(sample())
    rng = np.random.default_rng(0)
    b = rng.standard_normal(a.shape)
    assert metrics.pearson(a, 3 * a + 2) == pytest.approx(1)
    assert metrics.pearson(a, -a) == pytest.approx(-1)
    assert metrics.pearson(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    weight = rng.integers(0, 3, a.shape)
    repeated = np.corrcoef(np.repeat(a.ravel(), weight.ravel()), np.repeat(b.ravel(), weight.ravel()))[0, 1]
    assert metrics.pearson(a, b, mask=weight) == pytest.approx(repeated)
    assert np.isnan(metrics.pearson(np.full(a.shape, 0.7), a))


def test_the_band_pass_ignores_offsets_and_keeps_structures_between_its_limits() -> None:
    y, x = np.indices((120, 120))
    wanted, broad = np.cos(2 * np.pi * x / 16), np.cos(2 * np.pi * y / 240)
    assert np.abs(metrics.band_pass(np.full((50, 50), 3.0))).max() < 1e-12
    assert metrics.band_passed_pearson(wanted + 3 * broad + 5, wanted) > 0.97
    assert metrics.pearson(wanted + 3 * broad + 5, wanted) < 0.7


# --- resolution


@pytest.mark.parametrize("shape", [(64, 64), (60, 84), (101, 47), (33, 64)])
def test_an_object_agrees_with_itself_on_every_ring(shape: tuple[int, int]) -> None:
    obj = sample(shape)
    ring = metrics.fourier_ring_correlation(obj, obj)
    np.testing.assert_allclose(ring.curve, 1)
    assert ring.half_bit_px == ring.one_seventh_px == 1
    assert ring.frequency[0] == 0
    assert ring.frequency[-1] == pytest.approx(0.5, abs=1 / min(shape))
    np.testing.assert_allclose(metrics.fourier_ring_correlation(obj, -2 * obj).curve, -1)


def test_the_half_bit_curve_has_its_closed_form() -> None:
    """Half a bit a sample is a signal-to-noise ratio of (√2 − 1)/2 in each half: FRC → 0.1716 for full rings."""
    ring = metrics.fourier_ring_correlation(sample(), sample())
    ratio, root = (np.sqrt(2) - 1) / 2, np.sqrt(ring.counts)
    expected = (ratio + (2 * np.sqrt(ratio) + 1) / root) / (ratio + 1 + 2 * np.sqrt(ratio) / root)
    np.testing.assert_allclose(ring.half_bit, expected, atol=1e-4)
    assert ring.counts[0] == 1


def test_rings_of_independent_noise_do_not_correlate() -> None:
    first, second = (noisy(np.zeros((128, 128)), 1, seed) for seed in (1, 2))
    ring = metrics.fourier_ring_correlation(first, second)
    assert np.abs(ring.curve[10:]).max() < 0.3
    assert ring.half_bit_px > 10


@pytest.mark.parametrize("shape", [(128, 128), (96, 160)])
@pytest.mark.parametrize("limit", [0.15, 0.3])
def test_the_crossing_is_where_agreement_ends(shape: tuple[int, int], limit: float) -> None:
    """White noise that two images share below a frequency only: the half period is 1/(2·limit)."""
    common, first, second = (np.fft.fft2(noisy(np.zeros(shape), 1, seed)) for seed in (1, 2, 3))
    low = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None]) < limit
    a, b = (np.fft.ifft2(np.where(low, common, own)) for own in (first, second))
    ring = metrics.fourier_ring_correlation(a, b)
    for half_period in (ring.half_bit_px, ring.one_seventh_px):
        assert 1 / (2 * half_period) == pytest.approx(limit, abs=2 / min(shape))


def test_a_flat_object_is_reported_as_collapsed() -> None:
    truth = sample()
    fine, flat = metrics.collapse_report(truth, truth), metrics.collapse_report(np.full(truth.shape, 0.7 + 0j), truth)
    assert fine["amplitude_pearson"] == fine["phase_std_ratio"] == pytest.approx(1)
    assert fine["collapsed"] is False
    assert flat["collapsed"] is True
    assert flat["amplitude_std_ratio"] == pytest.approx(0, abs=1e-9)


# --- the evaluate run


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, np.ndarray]:
    truth = sample((90, 120)).astype(np.complex64)
    positions = np.random.default_rng(0).uniform((20, 20), (70, 100), (50, 2))
    recon = noisy(truth, 0.03)[5:85, 8:118] * np.exp(1j)
    np.savez(tmp_path / "recon.npz", object=recon, origin=np.array([5, 8]), positions=positions)
    np.savez(tmp_path / "scan.npz", objectGuess=truth, ycoords=positions[:, 0], xcoords=positions[:, 1])
    return tmp_path / "recon.npz", tmp_path / "scan.npz", positions


def test_evaluate_lays_objects_over_each_other_by_origin(pair: tuple, tmp_path: Path) -> None:
    a, b, positions = pair
    result = evaluate(a, b, output_dir=tmp_path / "out")
    rows, columns = metrics.scored_region(positions, 8)
    assert result["region"] == {"rows": [rows.start, rows.stop], "columns": [columns.start, columns.stop]}
    assert result["phase_pearson"] > 0.98
    assert result["amplitude_psnr_db"] == pytest.approx(20 * np.log10(result["amplitude_range"] / 0.03), abs=0.5)
    with np.load(a) as file:
        np.savez(tmp_path / "shifted.npz", object=file["object"], origin=file["origin"] + [1, -2])
    assert evaluate(tmp_path / "shifted.npz", b)["phase_pearson"] < 0.9
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "evaluation.csv",
        "evaluation.json",
        "evaluation.png",
    ]
    stored = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert stored["phase_psnr_db"] == result["phase_psnr_db"]
    assert len(stored["frc"]["curve"]) == len(stored["frc"]["frequency"])
    table = dict(line.split(",", 1) for line in (tmp_path / "out" / "evaluation.csv").read_text().splitlines())
    assert float(table["phase_psnr_db"]) == result["phase_psnr_db"]


def test_evaluate_of_a_file_with_itself_is_perfect(pair: tuple, tmp_path: Path) -> None:
    result = evaluate(pair[1], pair[1], output_dir=tmp_path / "same")
    assert result["amplitude_psnr_db"] == np.inf
    assert json.loads((tmp_path / "same" / "evaluation.json").read_text())["amplitude_psnr_db"] is None
    assert result["phase_ssim"] == pytest.approx(1)
    assert result["frc_half_bit_px"] == 1


def _bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    obj = sample((60, 60))
    holes = obj.copy()
    holes[30, 30] = np.nan
    (folder / "text.npz").write_text("hello")
    (folder / "folder.npz").mkdir()
    np.savez(folder / "whole.npz", object=obj)
    (folder / "cut.npz").write_bytes((folder / "whole.npz").read_bytes()[:3000])
    np.savez(folder / "other.npz", picture=obj)
    np.savez(folder / "pickled.npz", object=np.array([{}], dtype=object))
    np.savez(folder / "flat.npz", object=obj[0])
    np.savez(folder / "far.npz", object=obj, origin=(1000, 0))
    np.savez(folder / "half.npz", object=obj, origin=(0.5, 0))
    np.savez(folder / "holes.npz", object=holes)
    np.savez(folder / "dark.npz", object=0 * obj)
    np.savez(folder / "narrow.npz", object=obj, positions=np.array([[30.0, 20.0], [30.0, 50.0]]))
    np.savez(folder / "uneven.npz", objectGuess=obj, xcoords=np.arange(3.0), ycoords=np.arange(4.0))
    return {
        "missing": (folder / "none.npz", "no such file"),
        "text": (folder / "text.npz", "can't be read"),
        "folder": (folder / "folder.npz", "no such file"),
        "cut": (folder / "cut.npz", "can't be read"),
        "other": (folder / "other.npz", "only picture"),
        "pickled": (folder / "pickled.npz", "can't be read"),
        "flat": (folder / "flat.npz", "a complex array"),
        "far": (folder / "far.npz", "share 0 x 44 px"),
        "half": (folder / "half.npz", "whole numbers"),
        "holes": (folder / "holes.npz", "NaN"),
        "dark": (folder / "dark.npz", "zero all over"),
        "narrow": (folder / "narrow.npz", "smaller inset"),
        "uneven": (folder / "uneven.npz", "4 ycoords but 3 xcoords"),
    }


def test_bad_input_gets_one_line_and_writes_nothing(tmp_path: Path) -> None:
    for name, (path, message) in _bad_files(tmp_path).items():
        with pytest.raises(DataError, match=message) as caught:
            evaluate(path, tmp_path / "whole.npz", output_dir=tmp_path / "out")
        assert "\n" not in str(caught.value), name
        assert not (tmp_path / "out").exists(), name
