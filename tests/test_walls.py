"""Every wall of the house is held: an import through it makes the linter fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
THROUGH = {
    "imports point down": ("physics/optics.py", "import ptycho_torch.forward"),
    "settings stay at the door": ("refinement/denoising.py", "import ptycho_torch.config"),
    "data: mechanism apart from policy": ("data/canvas.py", "import ptycho_torch.data.region"),
    "refinement imports point down": ("refinement/schedule.py", "import ptycho_torch.refinement.solver"),
    "physics knows tensors only": ("physics/optics.py", "import numpy"),
    "only training knows the trainer": ("model.py", "import pytorch_lightning"),
}
"""For each contract a module, and an import that it may not have."""


def broken(root: Path) -> list[str]:
    """The contracts that the package in this folder breaks."""
    words = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    found = subprocess.run(
        words, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )
    verdicts = re.findall(r"^(.+) (KEPT|BROKEN)(?: \(.*)?$", found.stdout, re.MULTILINE)
    through = [name for name, verdict in verdicts if verdict == "BROKEN"]
    assert len(verdicts) == len(CONTRACTS) and (found.returncode == 0) == (not through), found.stdout + found.stderr
    return through


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("house")
    shutil.copy(ROOT / "pyproject.toml", root)
    shutil.copytree(
        ROOT / "ptycho_torch", root / "ptycho_torch", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors")
    )
    assert broken(root) == []
    return root


def test_every_contract_is_tried() -> None:
    assert {contract["name"] for contract in CONTRACTS} == set(THROUGH)


@pytest.mark.parametrize("wall", THROUGH)
def test_an_import_through_a_wall_is_found(wall: str, house: Path) -> None:
    name, line = THROUGH[wall]
    module = house / "ptycho_torch" / name
    before = module.read_text()
    try:
        module.write_text(before + f"\n{line}\n")
        assert wall in broken(house)
    finally:
        module.write_text(before)
