"""`refine` and `infer --refine` as users type them."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import infer_words, run
from scans import rewritten

from ptycho_torch.config import RefineConfig
from ptycho_torch.data.formats import read_scan
from ptycho_torch.data.region import Region
from ptycho_torch.predictors import find_predictor
from ptycho_torch.refinement import SCHEDULE, Refined, Unknowns, refine, rounds


def refine_words(scan: Path, folder: Path, *more: object) -> list[object]:
    return ["refine", "--test_data", scan, "--output_dir", folder, "--accelerator", "cpu", "--quiet", *more]


def result(folder: Path) -> tuple[dict[str, np.ndarray], dict]:
    with np.load(folder / "reconstruction.npz") as file:
        return {key: file[key] for key in file.files}, json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def refined_dir(scan_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refined")
    assert run(*refine_words(scan_file, folder, "--start", "flat", "--sweeps", 25)) == 0
    return folder


def test_refinement_from_nothing_gives_the_picture(refined_dir: Path, scan_file: Path) -> None:
    arrays, metrics = result(refined_dir)
    assert metrics["reference"]["amplitude_pearson"] > 0.97 and metrics["reference"]["phase_pearson"] > 0.97
    history = metrics["refinement"]
    values = history["likelihood_per_pixel"]
    assert values[history["best_sweep"]] == min(values) < 0.5 * values[0]
    assert len(values) == history["sweeps"] + 1 and history["held_out_patterns"] >= 4
    assert arrays["probe"].shape == (1, 32, 32) and arrays["given_positions"].shape == arrays["positions"].shape
    assert np.array_equal(arrays["positions"], arrays["given_positions"])
    for name in ("reconstructed_phase.png", "report.html", "refinement.png"):
        assert (refined_dir / name).stat().st_size > 200, name
    assert "Held-out misfit" in (refined_dir / "report.html").read_text()


def test_the_physical_probe_and_the_object_explain_the_counts(refined_dir: Path, scan_file: Path) -> None:
    arrays, metrics = result(refined_dir)
    with np.load(scan_file) as scan:
        amplitude, positions = scan["diff3d"], np.stack([scan["ycoords"], scan["xcoords"]], 1)
    errors = []
    for pattern, position in list(zip(amplitude, positions, strict=True))[40:60]:
        whole = np.floor(position + 0.5).astype(int)
        (y, x), f = whole - 16 - arrays["origin"], position - whole
        k = np.fft.fftfreq(32)
        ramp = np.exp(-2j * np.pi * (k[:, None] * f[0] + k * f[1]))
        probe = np.fft.ifft2(np.fft.fft2(arrays["probe"][0]) * ramp)
        wave = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe * arrays["object"][y : y + 32, x : x + 32])))
        errors.append(np.square(np.abs(wave) / 32 - pattern).sum() / np.square(pattern).sum())
    assert np.sqrt(np.mean(errors)) == pytest.approx(metrics["misfit_R"], rel=0.3)


def test_a_refinement_goes_on_from_a_bundle_and_from_a_reconstruction(
    model_dir: Path, refined_dir: Path, scan_file: Path, tmp_path: Path
) -> None:
    plain, more = tmp_path / "plain", tmp_path / "more"
    assert run(*infer_words(model_dir, scan_file, plain)) == 0
    assert run(*infer_words(model_dir, scan_file, more), "--refine", 15) == 0
    assert result(more)[1]["misfit_R"] < result(plain)[1]["misfit_R"]
    assert result(more)[1]["reference"]["phase_psnr_db"] > result(plain)[1]["reference"]["phase_psnr_db"] + 1
    again = tmp_path / "again"
    assert run(*refine_words(scan_file, again, "--start", refined_dir / "reconstruction.npz", "--sweeps", 3)) == 0
    first, second = (result(folder)[1]["refinement"]["likelihood_per_pixel"] for folder in (refined_dir, again))
    assert second[0] == pytest.approx(min(first), rel=1e-3)
    assert result(again)[0]["intensity_scale"] == result(refined_dir)[0]["intensity_scale"]


def test_flag_without_a_number_means_ten_sweeps(scan_file: Path, tmp_path: Path) -> None:
    words = ["infer", "--model_path", "flat", "--test_data", scan_file, "--output_dir", tmp_path, "--refine", "--quiet"]
    assert run(*words) == 0
    assert result(tmp_path)[1]["refinement"]["sweeps"] == 10


def test_positions_take_more_sweeps_where_no_number_is_given() -> None:
    options = {"test_data": Path("scan.npz"), "output_dir": Path("out")}
    assert RefineConfig(**options).refine == 40
    assert RefineConfig(**options, position_correction="affine").refine == 90
    assert RefineConfig(**options, position_correction="free", refine=7).refine == 7


def test_what_is_free_is_written(scan_file: Path, tmp_path: Path) -> None:
    free = ["--probe-update", "--modes", 2, "--position-correction", "free", "--intensity-fluctuation"]
    assert run(*refine_words(scan_file, tmp_path, "--start", "flat", "--sweeps", 8, *free)) == 0
    arrays, metrics = result(tmp_path)
    assert arrays["probe"].shape == (2, 32, 32)
    assert not np.array_equal(arrays["positions"], arrays["given_positions"])
    assert arrays["intensities"].shape == (144,) and arrays["intensities"].std() > 0
    assert len(metrics["refinement"]["probe_mode_power"]) == 2
    assert metrics["refinement"]["position_moves_rms_px"] > 0


def test_an_affine_correction_undoes_a_stretched_scan(scan_file: Path, tmp_path: Path) -> None:
    with np.load(scan_file) as file:
        y, x = 1.06 * file["ycoords"] - 2, 0.95 * file["xcoords"] + 2
    path = rewritten(scan_file, tmp_path / "stretched.npz", ycoords=y, xcoords=x)
    assert run(*refine_words(path, tmp_path / "kept", "--start", "flat", "--sweeps", 30)) == 0
    words = ["--start", "flat", "--sweeps", 40, "--position-correction", "affine"]
    assert run(*refine_words(path, tmp_path / "freed", *words)) == 0
    assert result(tmp_path / "freed")[1]["misfit_R"] < 0.95 * result(tmp_path / "kept")[1]["misfit_R"]


@pytest.mark.parametrize("correction", ["free", "affine"])
def test_positions_are_put_right_in_rounds(
    scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], correction: str
) -> None:
    with np.load(scan_file) as file:
        true = np.stack([file["ycoords"], file["xcoords"]], 1)
    errors = np.random.default_rng(0).normal(scale=2, size=true.shape)
    wrong = true + errors if correction == "free" else 1 + true * (1.0, 0.97)
    path = rewritten(scan_file, tmp_path / "wrong.npz", ycoords=wrong[:, 0], xcoords=wrong[:, 1])
    words = ["--start", "pretrained", "--sweeps", 70, "--position-correction", correction]
    assert run(*(word for word in refine_words(path, tmp_path / "out", *words) if word != "--quiet")) == 0
    assert capsys.readouterr().out.count("the network reconstructs again from the positions found so far") == 2
    arrays, metrics = result(tmp_path / "out")
    history, order = metrics["refinement"], arrays["pattern_indices"]
    assert history["rounds"][:2] == [30, 20] and len(history["likelihood_per_pixel"]) == history["sweeps"] + 1
    assert history["sweeps"] == sum(history["rounds"]) == len(history["subsets"]) and history["best_sweep"] > 50
    assert np.array_equal(arrays["given_positions"], wrong[order])
    moves = arrays["positions"] - arrays["given_positions"]
    assert history["position_moves_rms_px"] == pytest.approx(np.sqrt(np.square(moves).sum(1).mean()))
    left = arrays["positions"] - true[order]
    assert np.sqrt(np.square(left - left.mean(0)).sum(1).mean()) < (0.08 if correction == "free" else 0.15)


def test_every_round_begins_where_the_last_sweep_of_the_one_before_has_left_the_scan(
    scan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at its best sweep: the held-out misfit of the object stands still long before the positions do."""

    seen = []

    def recorded(region: Region, *args: Any, **options: Any) -> Refined:
        found = replace(refine(region, *args, **options), positions=region.positions)  # as if the start were the best
        seen.append((region, found))
        return found

    monkeypatch.setattr(rounds, "refine", recorded)
    short = replace(SCHEDULE, search_sweeps=6, near_sweeps=6, fixed_sweeps=6)
    scan, unknowns = read_scan(scan_file), Unknowns(probe=True, positions="free")
    predictor, chosen = find_predictor(Path("flat"), scan), np.arange(len(scan))
    region = predictor.region(scan, chosen)
    with torch.inference_mode():
        obj = predictor.model(region)
        rounds.refined_scan(obj, region, predictor, scan, chosen, sweeps=18, unknowns=unknowns, schedule=short)
    assert len(seen) == 3
    for (before, found), (after, _) in itertools.pairwise(seen):
        places = dict(
            zip(before.indices.tolist(), (found.last.positions.numpy() + before.origin).tolist(), strict=True)
        )
        expected = np.array([places[index] for index in after.indices.tolist()])
        assert np.allclose(after.positions.numpy() + after.origin, expected)
        assert np.allclose(after.probe, found.last.probe, rtol=1e-4, atol=1e-4)


def test_a_probe_that_the_file_does_not_hold_is_found(scan_file: Path, tmp_path: Path) -> None:
    path = rewritten(scan_file, tmp_path / "blind.npz", probeGuess=None)
    words = ["--start", "flat", "--probe-from", "patterns", "--probe-update"]
    assert run(*refine_words(path, tmp_path / "found", *words)) == 0
    assert run(*refine_words(scan_file, tmp_path / "given", "--start", "flat", "--probe-update")) == 0
    found, given = (result(tmp_path / name)[1]["misfit_R"] for name in ("found", "given"))
    assert found < 1.05 * given


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--modes", 9, "--probe-update"], "--modes 9"),
        (["--modes", 2], "--modes needs --probe-update"),
        (["--sweeps", 0], "--sweeps 0"),
        (["--likelihood", "gauss"], "--likelihood gauss"),
        (["--start", "nowhere.npz"], "nowhere.npz"),
        (["--start", "nowhere"], "nowhere"),
    ],
)
def test_a_refinement_that_makes_no_sense_is_refused_in_a_line(
    words: list[object], complaint: str, scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*refine_words(scan_file, tmp_path / "out", *words)) in (2, 3, 4)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and complaint in error, error
    assert not (tmp_path / "out" / "reconstruction.npz").exists()


def test_unknowns_without_a_refinement_are_refused(
    model_dir: Path, scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*infer_words(model_dir, scan_file, tmp_path / "out"), "--probe-update") == 2
    assert "without --refine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda arrays: {"origin": arrays["origin"] + 50}, "start from a reconstruction of this scan"),
        (
            lambda arrays: {key: arrays[key][:30] for key in ("object", "weight")},
            "start from a reconstruction of this scan",
        ),
        (lambda arrays: {"object": arrays["object"] * np.nan}, "NaN"),
        (lambda arrays: {"origin": None}, "origin"),
    ],
)
def test_a_start_that_does_not_lie_under_the_scan_is_refused(
    change: object,
    complaint: str,
    refined_dir: Path,
    scan_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arrays = result(refined_dir)[0]
    start = rewritten(refined_dir / "reconstruction.npz", tmp_path / "start.npz", **change(arrays))  # type: ignore[operator]
    assert run(*refine_words(scan_file, tmp_path / "out", "--start", start)) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and complaint in error, error
    assert not list((tmp_path / "out").glob("*"))
