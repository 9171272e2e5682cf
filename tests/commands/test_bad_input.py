"""Bad input: one line that says what was found and the way out, the right exit code, and nothing written."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import infer_words, run, train_words
from scans import rewritten


@pytest.fixture
def complains(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., None]:
    """Runs a command and checks its exit code, its one line, and that no output folder or file came of it."""

    def check(words: list[object], code: int, says: str) -> None:
        before = _everything(tmp_path)
        assert run(*words) == code
        text = capsys.readouterr().err
        assert text.count("\n") == 1 and text.startswith("error: "), text
        assert re.search(says, text), text
        assert _everything(tmp_path) == before, "something was written"

    return check


def _everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _arrays(scan_file: Path) -> dict[str, np.ndarray]:
    with np.load(scan_file) as file:
        return {key: file[key] for key in file.files}


CHANGES: dict[str, tuple[Callable[[dict[str, np.ndarray]], dict[str, object]], str]] = {
    "no patterns": (lambda a: {"diff3d": None}, "diff3d"),
    "no positions": (lambda a: {"xcoords": None}, "xcoords"),
    "wrong rank": (lambda a: {"diff3d": a["diff3d"][0]}, r"\[n, N, N\]|\(n, N, N\)|n, N, N"),
    "N of patterns and probe": (lambda a: {"probeGuess": a["probeGuess"][:30, :30]}, "30 x 30.*32 x 32"),
    "fewer positions": (
        lambda a: {
            "xcoords": a["xcoords"][:90],
            "ycoords": a["ycoords"][:90],
            "xcoords_start": None,
            "ycoords_start": None,
        },
        "90 positions",
    ),
    "NaN": (lambda a: {"diff3d": np.where(np.arange(144)[:, None, None] == 3, np.nan, a["diff3d"])}, "NaN"),
    "negative": (lambda a: {"diff3d": a["diff3d"] - 1}, "negative"),
    "all zero": (lambda a: {"diff3d": a["diff3d"] * 0}, "zero|dark|empty"),
    "outside the object": (lambda a: {"xcoords": a["xcoords"] + 1000}, "outside the object"),
    "all equal": (lambda a: {"xcoords": a["xcoords"] * 0 + 40, "ycoords": a["ycoords"] * 0 + 40}, "same|equal"),
    "NaN position": (lambda a: {"ycoords": np.where(np.arange(144) == 2, np.nan, a["ycoords"])}, "NaN|finite"),
    "an unknown domain": (lambda a: {"measurement_domain": "volts"}, "volts"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_scan_that_cannot_be_used(
    name: str, scan_file: Path, model_dir: Path, tmp_path: Path, complains: Callable[..., None]
) -> None:
    change, says = CHANGES[name]
    bad = rewritten(scan_file, tmp_path / "bad.npz", **change(_arrays(scan_file)))
    complains(train_words(bad, tmp_path / "model"), 3, says)
    complains(infer_words(model_dir, bad, tmp_path / "out"), 3, says)


def test_a_missing_key_is_named_beside_those_that_are_there(
    scan_file: Path, tmp_path: Path, complains: Callable[..., None]
) -> None:
    bad = rewritten(scan_file, tmp_path / "bad.npz", diff3d=None)
    complains(train_words(bad, tmp_path / "model"), 3, r"diff3d.*xcoords")


def test_files_that_are_not_scans(
    model_dir: Path, scan_file: Path, tmp_path: Path, complains: Callable[..., None]
) -> None:
    complains(train_words(tmp_path / "nowhere.npz", tmp_path / "m"), 3, "no such file|does not exist|not found")
    text = tmp_path / "text.npz"
    text.write_text("not a zip")
    complains(train_words(text, tmp_path / "m"), 3, "text.npz")
    cut = tmp_path / "cut.npz"
    cut.write_bytes(scan_file.read_bytes()[:5000])
    complains(infer_words(model_dir, cut, tmp_path / "out"), 3, "cut.npz")


def test_too_few_patterns_for_a_group(scan_file: Path, tmp_path: Path, complains: Callable[..., None]) -> None:
    arrays = _arrays(scan_file)
    few = {key: value[:3] for key, value in arrays.items() if value.ndim and len(value) == 144}
    bad = rewritten(scan_file, tmp_path / "few.npz", **few)
    complains(train_words(bad, tmp_path / "m"), 3, "gridsize")


def test_patterns_of_another_size_than_the_bundles(
    model_dir: Path, scan_file: Path, tmp_path: Path, complains: Callable[..., None]
) -> None:
    assert run("simulate", "-o", tmp_path / "n16.npz", "-N", 16, "--positions", 30, "--step", 3, "--quiet") == 0
    complains(infer_words(model_dir, tmp_path / "n16.npz", tmp_path / "out"), 3, "16 x 16.*32 x 32")
    words = [*train_words(scan_file, tmp_path / "m"), "--test_data_file", tmp_path / "n16.npz"]
    complains(words, 3, "16 x 16.*32 x 32")


@pytest.mark.parametrize(
    "words, says",
    [
        (["--gridsize", 0], "--gridsize 0"),
        (["--batch_size", "many"], "--batch_size many"),
        (["--learnin-rate", 1], "did you mean --learning-rate"),
        (["--accelerator", "tpu"], "tpu"),
        (["--accelerator", "warp"], "warp"),
        (["--intensity-scale", "closed-form"], "--nphotons"),
        (["--nphotons", -3], "--nphotons"),
        (["--resume"], "no checkpoint"),
        (["--resume", "--disable-checkpointing"], "--disable-checkpointing"),
        (["--torch-loss-mode", "l7"], "poisson"),
    ],
)
def test_words_that_cannot_be_honoured(
    words: list[object], says: str, scan_file: Path, tmp_path: Path, complains: Callable[..., None]
) -> None:
    complains([*train_words(scan_file, tmp_path / "m"), *words], 2, says)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(
    model_dir: Path, scan_file: Path, tmp_path: Path, complains: Callable[..., None]
) -> None:
    for accelerator in ("gpu", "cuda"):
        complains([*train_words(scan_file, tmp_path / "m"), "--accelerator", accelerator], 2, "no usable CUDA GPU")
        complains(
            [*infer_words(model_dir, scan_file, tmp_path / "o"), "--accelerator", accelerator], 2, "no usable CUDA"
        )
    complains([*train_words(scan_file, tmp_path / "m"), "--device", "cuda"], 2, "no usable CUDA GPU")


def test_missing_words_and_commands(tmp_path: Path, complains: Callable[..., None]) -> None:
    complains(["train"], 2, "--train_data_file")
    complains(["infer", "--model_path", tmp_path], 2, "--test_data")
    complains(["trian"], 2, "did you mean train")
    complains(["simulate", "-o", tmp_path / "scan.h5"], 2, r"\.npz")
    complains(["simulate", "-o", tmp_path / "scan.npz", "-N", 33], 2, "multiple of 2")


def test_bundles_that_cannot_be_used(
    model_dir: Path, scan_file: Path, tmp_path: Path, complains: Callable[..., None]
) -> None:
    good = (model_dir / "wts.h5.zip").read_bytes()
    middle = len(good) // 2
    kinds = {
        "missing": None,
        "text": b"hello",
        "truncated": good[:middle],
        "altered": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
    }
    for name, content in kinds.items():
        folder = tmp_path / name
        folder.mkdir()
        if content is not None:
            (folder / "wts.h5.zip").write_bytes(content)
        complains(infer_words(folder, scan_file, tmp_path / "out"), 4, name if name != "text" else "zip")


def test_a_foreign_bundle_is_named_and_never_overwritten(
    scan_file: Path, tmp_path: Path, complains: Callable[..., None]
) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    with zipfile.ZipFile(folder / "wts.h5.zip", "w") as archive:
        for name in ("manifest.dill", "diffraction_to_obj/model.pth", "diffraction_to_obj/params.dill"):
            archive.writestr(name, b"x")
    complains(infer_words(folder, scan_file, tmp_path / "out"), 4, "PtychoPINN|reference")
    complains(train_words(scan_file, folder), 4, "PtychoPINN|reference")


def test_output_folders_that_cannot_be_written(
    model_dir: Path, scan_file: Path, tmp_path: Path, complains: Callable[..., None]
) -> None:
    (tmp_path / "file").write_text("in the way")
    complains(train_words(scan_file, tmp_path / "file"), 2, "file")
    complains(infer_words(model_dir, scan_file, tmp_path / "file"), 2, "file")
    complains(infer_words(model_dir, scan_file, tmp_path / "file" / "below"), 2, "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_folder(
    model_dir: Path, scan_file: Path, tmp_path: Path, complains: Callable[..., None]
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    complains(infer_words(model_dir, scan_file, folder), 2, "can't be written")
    complains(train_words(scan_file, folder), 2, "can't be written")


def test_evaluate_refuses_what_it_cannot_compare(
    scan_file: Path, tmp_path: Path, complains: Callable[..., None]
) -> None:
    complains(["evaluate", tmp_path / "no.npz", scan_file], 3, "no such file")
    np.savez(tmp_path / "empty.npz", picture=np.ones((9, 9)))
    complains(["evaluate", tmp_path / "empty.npz", scan_file], 3, "no key `object`")
