"""A small scan and a small bundle that many tests look at."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1" if "-n" in sys.argv else "2")  # workers inherit the environment
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin keep each other from their work

from scans import write_scan

from ptycho_torch.cli import main

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

CHECKED = ("ptycho_torch.physics", "ptycho_torch.forward")
"""Modules whose signatures say shapes, which `--check-shapes` checks at every call."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--check-shapes", action="store_true", help="check all shapes and types in the signatures of the physics"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--check-shapes"):
        from jaxtyping import install_import_hook

        if early := [name for name in sys.modules if name.startswith(CHECKED)]:
            raise pytest.UsageError(f"--check-shapes: {early[0]} was imported before its shapes could be checked")
        install_import_hook(CHECKED, "beartype.beartype")


def run(*words: object) -> int:
    """`ptycho-torch words…` in this process."""
    return main([str(word) for word in words])


@pytest.fixture(scope="session")
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scan(tmp_path_factory.mktemp("scan") / "scan.npz")


@pytest.fixture(scope="session")
def model_dir(scan_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    assert run(*train_words(scan_file, folder), "--test_data_file", scan_file, "--log-patch-stats") == 0
    return folder


def train_words(scan: Path, folder: Path, *, epochs: int = 2) -> list[object]:
    """A short training run on a small scan."""
    words = [
        "--n_images",
        16,
        "--batch_size",
        4,
        "--gridsize",
        2,
        "--network_width",
        8,
        "--accelerator",
        "cpu",
        "--quiet",
    ]
    return ["train", "--train_data_file", scan, "--output_dir", folder, "--max_epochs", epochs, *words]


def infer_words(model: Path, scan: Path, folder: Path) -> list[object]:
    return [
        "infer",
        "--model_path",
        model,
        "--test_data",
        scan,
        "--output_dir",
        folder,
        "--accelerator",
        "cpu",
        "--quiet",
    ]
