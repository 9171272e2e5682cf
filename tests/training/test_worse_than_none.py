"""A training whose network explains nothing says so."""

from pathlib import Path

import pytest
from conftest import run, train_words


@pytest.mark.parametrize("extra", [(), ("--network", "cnn")])
def test_a_network_that_explains_no_pattern_is_called_worse_than_none(
    scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: tuple[str, ...]
) -> None:
    spoilt = train_words(scan_file, tmp_path / "spoilt", epochs=1)
    assert run(*spoilt, *extra, "--learning-rate", "0.3", "--gradient_clip", "0") in (0, 1)
    said = capsys.readouterr().err
    assert "worse than none" in said or "diverged" in said


def test_a_network_that_has_learned_is_not(scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*train_words(scan_file, tmp_path / "again", epochs=2)) == 0
    assert "worse than none" not in capsys.readouterr().err
