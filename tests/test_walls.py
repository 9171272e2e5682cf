"""Every wall of the house is held: an import through it makes the linter fail."""

from __future__ import annotations

import ast
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
THROUGH = [
    ("imports point down", "physics/optics.py", "import ptycho_torch.forward"),
    ("imports point down", "training/regions.py", "import ptycho_torch.reconstruction"),
    ("imports point down", "reconstruction.py", "import ptycho_torch.training.regions"),
    ("imports point down", "reconstruction.py", "import ptycho_torch.commands.infer"),
    ("imports point down", "files.py", "import ptycho_torch.data.scan"),
    ("imports point down", "devices.py", "import ptycho_torch.scale"),
    ("imports point down", "progress.py", "import ptycho_torch.report"),
    ("imports point down", "data/region.py", "import ptycho_torch.simulation"),
    ("imports point down", "newcomer.py", "import ptycho_torch.errors"),
    ("no circles", "simulation/objects.py", "import ptycho_torch.simulation.acquire"),
    ("settings stay at the door", "refinement/denoising.py", "import ptycho_torch.config"),
    ("settings stay at the door", "training/lightning.py", "import ptycho_torch.config"),
    ("only training knows the trainer", "model.py", "import pytorch_lightning"),
    ("only training knows the trainer", "commands/pretrain.py", "import pytorch_lightning"),
    ("a reconstruction loads no trainer", "commands/infer.py", "import ptycho_torch.training.regions"),
    ("words are understood before anything heavy is loaded", "cli.py", "import ptycho_torch.commands.infer"),
    ("words are understood before anything heavy is loaded", "config.py", "import torch"),
    ("reconstruct and refine: no files, settings or prints", "reconstruction.py", "import ptycho_torch.files"),
    ("reconstruct and refine: no files, settings or prints", "refinement/solver.py", "import rich"),
    ("forward and physics know tensors only", "physics/optics.py", "import numpy"),
    ("forward and physics know tensors only", "forward.py", "import ptycho_torch.files"),
    ("who predicts counts asks the forward model", "simulation/acquire.py", "import ptycho_torch.physics.optics"),
    ("who predicts counts asks the forward model", "refinement/denoising.py", "import ptycho_torch.physics.sweep"),
    ("a propagator is made from a geometry", "refinement/steps.py", "import ptycho_torch.physics.propagation"),
    ("data: mechanism apart from policy", "data/canvas.py", "import ptycho_torch.data.region"),
    ("data: mechanism apart from policy", "data/subsets.py", "import ptycho_torch.data.held_out"),
    ("data: mechanism apart from policy", "data/patterns.py", "import ptycho_torch.data.formats"),
    ("what a scan holds is checked without PyTorch", "data/patterns.py", "import torch"),
    ("refinement imports point down", "refinement/schedule.py", "import ptycho_torch.refinement.solver"),
    ("refinement imports point down", "refinement/steps.py", "import ptycho_torch.refinement.validation"),
    ("refinement imports point down", "refinement/solver.py", "import ptycho_torch.refinement.rounds"),
    ("the solver knows no network", "refinement/steps.py", "import ptycho_torch.networks.door"),
    ("a network knows a region, no truth and no solver", "networks/cnn.py", "import ptycho_torch.simulation"),
    ("pictures and scores come from values", "report/images.py", "import ptycho_torch.data.scan"),
    ("objects are compared without a solver", "evaluation.py", "import ptycho_torch.simulation"),
    ("a bundle is read without a model", "bundle/contents.py", "import ptycho_torch.scale"),
]
"""A contract, a module, and an import that the module may not have."""


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
    assert {contract["name"] for contract in CONTRACTS} == {wall for wall, _, _ in THROUGH}


@pytest.mark.parametrize(("wall", "name", "line"), THROUGH)
def test_an_import_through_a_wall_is_found(wall: str, name: str, line: str, house: Path) -> None:
    module = house / "ptycho_torch" / name
    before = module.read_text() if module.exists() else None
    try:
        module.write_text(f"{before or ''}\n{line}\n")
        assert wall in broken(house)
    finally:
        if before is None:
            module.unlink()
        else:
            module.write_text(before)


PRINT = ("cli.py", "progress.py", "commands/", "training/run.py")
"""Where people are spoken to; everything else returns values, or calls the `say` that it is given."""


def prints(source: str) -> bool:
    """Whether this source calls `print`."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)


def test_only_commands_print() -> None:
    package = ROOT / "ptycho_torch"
    found = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if prints(path.read_text())}
    assert all(name.startswith(PRINT) for name in found), f"{found}: return the words, or take a `say`"
    assert {"cli.py", "commands/infer.py"} <= found
