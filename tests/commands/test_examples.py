"""The examples run as they stand, as scripts and as the notebooks that they turn into."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
LEFT = {
    "from_arrays": {"from_arrays.h5"},
    "from_file": {"scan.npz", "scan.png", "reconstruction.png", "reconstruction.npz"},
    "own_network_and_regulariser": set[str](),
}


def test_every_example_is_known() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*LEFT, "to_notebook"}


def test_without_a_name_all_examples_turn_into_notebooks(tmp_path: Path) -> None:
    convert = [sys.executable, EXAMPLES / "to_notebook.py", "--output-dir", tmp_path]
    subprocess.run(convert, check=True, capture_output=True)
    assert {path.stem for path in tmp_path.glob("*.ipynb")} == {*LEFT}


@pytest.mark.parametrize("name", LEFT)
def test_an_example_runs_and_turns_into_a_notebook(name: str, tmp_path: Path) -> None:
    script, converted, ran = EXAMPLES / f"{name}.py", tmp_path / "notebooks", tmp_path / "ran"
    converted.mkdir(), ran.mkdir()
    convert = [sys.executable, EXAMPLES / "to_notebook.py", script, "--output-dir", converted]
    subprocess.run(convert, check=True, capture_output=True)
    notebook = json.loads((converted / f"{name}.ipynb").read_text())
    assert notebook["nbformat"] == 4 and len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    texts, codes = (
        ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]
        for kind in ("markdown", "code")
    )
    assert texts[0].startswith("# ") and not any(line.startswith("# %%") for text in texts + codes for line in text)
    as_script = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert [line for code in codes for line in code.splitlines() if line and not line.startswith("#")] == as_script
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONWARNINGS": "error::DeprecationWarning:__main__"}
    done = subprocess.run(
        [sys.executable, "-"], input="\n".join(codes), text=True, cwd=ran, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in ran.iterdir()} == LEFT[name]
    assert done.stdout.strip()
    if name == "own_network_and_regulariser":
        plain, refined, regularised = (
            float(line.split("phase ")[1].split(" dB")[0]) for line in done.stdout.splitlines()
        )
        assert regularised > max(plain, refined)
