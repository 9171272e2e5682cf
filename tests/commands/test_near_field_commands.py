"""Near-field scans from the command line: what starts flat, what is refused, and what a refinement finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import infer_words, run

from ptycho_torch.data.formats import read_scan
from ptycho_torch.predictors import find_predictor


@pytest.fixture(scope="module")
def near_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("near") / "near.npz"
    words = ["--propagation", "near", "--distance", 1e-3, "--positions", 60, "--step", 4, "-N", 32, "--object", "lines"]
    assert run("simulate", "--output", path, "--quiet", *words) == 0
    return path


def test_the_pretrained_network_gives_way_to_a_flat_object_and_says_so(
    near_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--test_data", near_file, "--output_dir", tmp_path, "--sweeps", 12, "--accelerator", "cpu"]
    assert run("refine", *words) == 0
    said = capsys.readouterr().out
    assert "the pretrained network is trained on far-field patterns; the initial object is flat" in said
    assert "near field over 1 mm" in said
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    history = metrics["refinement"]["likelihood_per_pixel"]
    assert min(history) < 0.5 * history[0]
    assert metrics["reference"]["amplitude_psnr_db"] > 20
    assert "Fresnel number" in (tmp_path / "report.html").read_text()


def test_the_probe_is_found_from_the_patterns_as_the_mean_pattern_propagated_back(
    near_file: Path, tmp_path: Path
) -> None:
    words = [
        "--test_data",
        near_file,
        "--output_dir",
        tmp_path,
        "--probe-from",
        "patterns",
        "--probe-update",
        "--quiet",
    ]
    assert run("refine", *words, "--sweeps", 6, "--accelerator", "cpu") == 0
    history = json.loads((tmp_path / "metrics.json").read_text())["refinement"]["likelihood_per_pixel"]
    assert min(history) < 0.7 * history[0]


def test_a_bundle_of_the_far_field_is_refused_in_a_line(
    model_dir: Path, near_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*infer_words(model_dir, near_file, tmp_path / "out")) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "patterns are near field" in error and "trained on far field" in error, error
    assert not (tmp_path / "out" / "reconstruction.npz").exists()


def test_a_bundle_says_on_what_propagation_it_was_trained(
    near_file: Path, scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--max_epochs", 1, "--n_images", 4, "--batch_size", 4, "--network_width", 8, "--accelerator", "cpu"]
    assert run("train", "--train_data_file", near_file, "--output_dir", tmp_path / "model", *words, "--quiet") == 0
    predictor = find_predictor(tmp_path / "model", read_scan(near_file))
    assert predictor.propagation == "near"
    assert run(*infer_words(tmp_path / "model", near_file, tmp_path / "near")) == 0
    with np.load(tmp_path / "near" / "reconstruction.npz") as found:
        assert np.isfinite(found["object"]).all()
    capsys.readouterr()
    assert run(*infer_words(tmp_path / "model", scan_file, tmp_path / "far")) == 3
    assert "patterns are far field" in capsys.readouterr().err
    words += ["--test_data_file", scan_file, "--quiet"]
    assert run("train", "--train_data_file", near_file, "--output_dir", tmp_path / "mixed", *words) == 3
    assert "both scans need one propagation" in capsys.readouterr().err
