"""Deterministic algorithms are asked for where they matter, cheaply, and for no longer than a command runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import infer_words, run, train_words

from ptycho_torch.devices import deterministic

CPU = torch.device("cpu")


def test_deterministic_algorithms_end_where_they_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    with deterministic(CPU):
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
        with deterministic(CPU, is_wanted=False):
            assert not torch.are_deterministic_algorithms_enabled()
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled() and torch.utils.deterministic.fill_uninitialized_memory


def test_a_gpu_s_products_are_told_to_be_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic(CPU):
        pass
    code = "import os, torch; from ptycho_torch.devices import deterministic\nwith deterministic(torch.device('cuda')):"
    code += " print(os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == ":4096:8\n"


def test_commands_leave_no_switch_turned(scan_file: Path, tmp_path: Path) -> None:
    assert run(*infer_words(Path("flat"), scan_file, tmp_path / "o"), "--n_images", 36) == 0
    assert run(*train_words(scan_file, tmp_path / "m", epochs=1)) == 0
    assert run(*infer_words(tmp_path, scan_file, tmp_path / "o")) != 0
    assert not torch.are_deterministic_algorithms_enabled()


def test_infer_does_not_import_the_compiler_of_torch(scan_file: Path, tmp_path: Path) -> None:
    words = [str(word) for word in (*infer_words(Path("pretrained"), scan_file, tmp_path), "--n_images", 36)]
    code = f"import sys; from ptycho_torch.cli import main; assert main({words}) == 0; "
    code += "print([name for name in sys.modules if name in ('torch._inductor', 'torch._dynamo')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.splitlines()[-1:] == ["[]"], found.stderr


def test_two_runs_give_the_same_numbers(scan_file: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        words = infer_words(Path("pretrained"), scan_file, tmp_path / name)
        assert run(*words, "--n_images", 36, "--refine", 2, "--probe-update") == 0
    with np.load(tmp_path / "one/reconstruction.npz") as one, np.load(tmp_path / "two/reconstruction.npz") as two:
        assert all(one[name].tobytes() == two[name].tobytes() for name in one)
