"""The demo: the first command that a newcomer types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import run

from ptycho_torch.evaluation import evaluate


def test_the_demo_shows_a_reconstruction_beside_the_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("demo", "--output_dir", tmp_path) == 0
    text = capsys.readouterr().out
    assert "root mean square error 0.0" in text and f"{tmp_path / 'results' / 'comparison.png'}" in text
    assert (tmp_path / "results" / "comparison.png").stat().st_size > 50_000
    assert (tmp_path / "results" / "report.html").is_file()
    scores = evaluate(tmp_path / "results" / "reconstruction.npz", tmp_path / "scan.npz")
    assert scores["amplitude_psnr_db"] > 30 and scores["phase_psnr_db"] > 37
    assert json.loads((tmp_path / "results" / "metrics.json").read_text())["refinement"]


def test_a_demo_that_trains_reconstructs_a_scan_that_its_network_has_not_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("demo", "--output_dir", tmp_path, "--train", "--max_epochs", 1, "--quiet") == 0
    assert capsys.readouterr().out.count("\n") == 1
    scores = evaluate(tmp_path / "results" / "reconstruction.npz", tmp_path / "scan.npz")
    assert scores["phase_pearson"] > 0.7 and scores["amplitude_pearson"] > 0.8
    assert scores["amplitude_psnr_db"] > 10
    assert (tmp_path / "scan.npz").read_bytes() != (tmp_path / "training_scan.npz").read_bytes()
