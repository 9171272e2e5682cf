"""A file that is no reconstruction is refused in one line by the commands that read one, and closed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import infer_words, run


@pytest.mark.parametrize("damage", ["cut", "an array", "empty"])
def test_a_damaged_reconstruction_is_refused(damage, scan_file: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "start.npz"
    with path.open("wb") as file:
        if damage == "an array":
            np.save(file, np.ones((3, 3)))
        elif damage == "cut":
            file.write(scan_file.read_bytes()[:3000])
    for words in (infer_words(path, scan_file, tmp_path / "out"), ["evaluate", path, scan_file]):
        assert run(*words) == 3
        complaint = capsys.readouterr().err
        assert complaint.count("\n") == 1 and complaint.startswith(f"error: {path}: ")
