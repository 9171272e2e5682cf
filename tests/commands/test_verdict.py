"""What the terminal, the files and the exit code say of a result."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import infer_words, run

from tests.scans import rewritten


@pytest.fixture(scope="module")
def mirrored_scan(scan_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with np.load(scan_file) as file:
        return rewritten(
            scan_file,
            tmp_path_factory.mktemp("mirrored") / "scan.npz",
            ycoords=file["ycoords"].max() + file["ycoords"].min() - file["ycoords"],
        )


def test_a_good_result_says_so_first(scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = infer_words("pretrained", scan_file, tmp_path / "out")[:-1]
    assert run(*words, "--strict", "--refine", "20") == 0
    said = capsys.readouterr()
    after = said.out[said.out.index("verdict good: misfit") :]
    assert "warning" not in said.err and "misfit R" in after
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["verdict"]["status"] == "good"


def test_a_bad_result_is_a_warning_with_the_cause_and_an_error_under_strict(
    mirrored_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = infer_words("pretrained", mirrored_scan, tmp_path / "out")
    assert run(*words, "--refine", "10") == 0
    complaint = capsys.readouterr().err
    assert complaint.startswith("warning: verdict bad: misfit") and "try --flip y" in complaint
    verdict = json.loads((tmp_path / "out" / "metrics.json").read_text())["verdict"]
    assert verdict["status"] == "bad" and verdict["reasons"][0]["cause"] == "flip y"
    assert {"r_over_floor", "r_over_null", "own_wins"} <= verdict.keys()
    assert run(*words, "--refine", "10", "--strict", "--no-diagnose") == 5
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: the verdict is bad")
    assert (tmp_path / "out" / "report.html").is_file()
