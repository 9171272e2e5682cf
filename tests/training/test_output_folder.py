"""Training writes and deletes in its own output folder only, and leaves a process as it found it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run, train_words
from scans import rewritten

from ptycho_torch.bundle import read_bundle


@pytest.fixture
def begun(scan_file: Path, tmp_path: Path) -> Path:
    """A training's output folder after one epoch."""
    folder = tmp_path / "begun"
    assert run(*train_words(scan_file, folder, epochs=1)) == 0
    return folder


def with_best_models(folder: Path, named: str) -> None:
    """`last.ckpt` whose best epoch is said to be the path `named`, with a score that the next epoch beats."""
    path = folder / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    (state,) = (state for state in content["callbacks"].values() if "best_k_models" in state)
    state["best_k_models"] = {named: torch.tensor(1e9)}
    state |= {"kth_best_model_path": named, "kth_value": torch.tensor(1e9), "best_model_path": named}
    state |= {"best_model_score": torch.tensor(1e9), "last_model_path": named}
    torch.save(content, path)


@pytest.mark.parametrize("named", ["{folder}/checkpoints/../../victim", "{victim}", "memory://victim", "best-009.ckpt"])
def test_a_checkpoint_can_not_have_other_folders_deleted(named, begun: Path, scan_file: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").write_text("mine")
    with_best_models(begun, named.format(folder=begun, victim=victim))
    assert run(*train_words(scan_file, begun, epochs=3), "--resume") == 0
    assert (victim / "kept").read_text() == "mine"
    assert read_bundle(begun).params["training"]["epochs"] == 3


def test_a_moved_training_still_knows_its_best_epoch(begun: Path, scan_file: Path, tmp_path: Path) -> None:
    moved = begun.rename(tmp_path / "moved")
    (best,) = moved.glob("checkpoints/best-*.ckpt")
    with_best_models(moved, str(begun / "checkpoints" / best.name))
    assert run(*train_words(scan_file, moved, epochs=2), "--resume") == 0
    assert not best.exists() and len(list(moved.glob("checkpoints/best-*.ckpt"))) == 1  # it was beaten


@pytest.mark.parametrize("link", ["checkpoints", "logs", "training_log.jsonl", "checkpoints/best-epoch=000.ckpt"])
def test_nothing_is_written_or_deleted_through_a_link(link, scan_file, tmp_path, capsys) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    for name in ("mine.ckpt", "metrics.csv", "text"):
        (elsewhere / name).write_text("mine")
    path = folder / link
    path.parent.mkdir(parents=True)
    path.symlink_to(elsewhere if link in ("checkpoints", "logs") else elsewhere / "text")
    assert run(*train_words(scan_file, folder, epochs=1)) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1 and f"{path} is a link to {elsewhere}" in complaint
    assert all(file.read_text() == "mine" for file in elsewhere.iterdir()) and len(list(elsewhere.iterdir())) == 3


def test_after_a_training_signals_do_what_they_did(scan_file: Path, tmp_path: Path) -> None:
    words = [str(word) for word in train_words(scan_file, tmp_path, epochs=1)]
    code = f"""
import os, signal
from ptycho_torch.cli import main
assert main({words}) == 0
os.kill(os.getpid(), signal.SIGTERM)
print("survived")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGTERM and "survived" not in ended.stdout


def test_a_training_that_fails_leaves_no_handler(scan_file, tmp_path, monkeypatch) -> None:
    from ptycho_torch.training.lightning import LightningPtycho

    def fails(*_):
        raise RuntimeError("as if")

    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    monkeypatch.setattr(LightningPtycho, "training_step", fails)
    assert run(*train_words(scan_file, tmp_path, epochs=1)) == 1
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before


def test_a_thread_may_train(scan_file: Path, tmp_path: Path) -> None:
    codes = []
    thread = threading.Thread(target=lambda: codes.append(run(*train_words(scan_file, tmp_path, epochs=1))))
    thread.start()
    thread.join()
    assert codes == [0]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("cut", "is damaged"),
        ("width", "another network"),
        ("scan", "another scan"),
        ("epochs", "holds 2 epochs already"),
    ],
)
def test_what_cannot_be_resumed_is_said_in_a_line(
    change: str, complaint: str, begun: Path, scan_file: Path, tmp_path: Path, capsys
) -> None:
    last, scan, words = begun / "checkpoints" / "last.ckpt", scan_file, list[object]()
    if change == "cut":
        last.write_bytes(last.read_bytes()[:5000])
    elif change == "width":
        words = ["--network_width", 4]
    elif change == "scan":
        scan = rewritten(scan_file, tmp_path / "other.npz", xcoords=np.load(scan_file)["xcoords"] + 0.25)
    else:
        content = torch.load(last, weights_only=True)
        torch.save(content | {"epoch": 1}, last)
    epochs = 1 if change == "epochs" else 3
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(*train_words(scan, begun, epochs=epochs), *words, "--resume") == 2
    found = capsys.readouterr().err
    assert found.count("\n") == 1 and complaint in found
    assert {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()} == before
