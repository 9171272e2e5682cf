"""What is not finite is an error in one line, never a file."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import infer_words, run, train_words
from safetensors.torch import save

from ptycho_torch.bundle import contents as bundle_contents
from ptycho_torch.bundle import read_bundle, write_bundle
from ptycho_torch.errors import PtychoError
from ptycho_torch.training.lightning import LightningPtycho
from ptycho_torch.types import Reconstruction, check_finite


def written(model_dir: Path, folder: Path, **changes: object) -> Path:
    """The bundle of a small training with something changed."""
    names = ("weights", "params", "legacy", "probe", "provenance")
    bundle = read_bundle(model_dir)
    return write_bundle(folder, **({name: getattr(bundle, name) for name in names} | changes))


@pytest.mark.parametrize("scale", ["measured", "learned"])
def test_a_training_that_diverges_writes_no_bundle(scale, scan_file: Path, tmp_path: Path, capsys) -> None:
    words = train_words(scan_file, tmp_path, epochs=3)
    assert run(*words, "--learning-rate", 10, "--intensity_scale", scale) == 1
    said = capsys.readouterr()
    line = r"error: training diverged in epoch 1: weights are not finite with --learning-rate 10; take a smaller one\n"
    assert re.fullmatch(line, said.err) and not (tmp_path / "wts.h5.zip").exists()
    assert not list(tmp_path.glob("checkpoints/*"))


def test_the_last_good_checkpoint_outlives_a_divergence(scan_file: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    assert run(*train_words(scan_file, tmp_path, epochs=1)) == 0
    kept = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    step = LightningPtycho.training_step
    monkeypatch.setattr(LightningPtycho, "training_step", lambda *given: torch.nan * step(*given))
    capsys.readouterr()
    assert run(*train_words(scan_file, tmp_path, epochs=3), "--resume") == 1
    assert "in epoch 2" in (complaint := capsys.readouterr().err) and "epoch 1 stays in the checkpoints" in complaint
    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == kept


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bundle_that_is_not_finite_is_neither_written_nor_read(value, model_dir, tmp_path, capsys, monkeypatch):
    bundle = read_bundle(model_dir)
    name = sorted(bundle.weights)[0]
    bundle.weights[name].view(-1)[0] = value
    probe = bundle.probe.copy()
    probe[0, 0, 0] = value
    for changes in ({"weights": bundle.weights}, {"probe": probe}):
        with pytest.raises(PtychoError, match="not written") as refused:
            written(model_dir, tmp_path / "new", **changes)
        assert refused.value.exit_code == 1 and not (tmp_path / "new").exists()
        with monkeypatch.context() as patch:
            patch.setattr(bundle_contents, "_not_finite", lambda *_: None)
            written(model_dir, tmp_path / "forged", **changes)
        for words in (["bundle", "verify", tmp_path / "forged"], ["bundle", "verify", tmp_path / "forged/wts.h5.zip"]):
            assert run(*words) == 4
            assert "holds NaN or infinite values; train again" in capsys.readouterr().err


def test_a_bundle_may_hold_any_kind_of_number(model_dir, tmp_path):
    kinds = [torch.bool, torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.float64, torch.complex64]
    weights = {str(kind): torch.ones(3).to(kind) for kind in kinds}
    assert save(read_bundle(written(model_dir, tmp_path, weights=weights)).weights) == save(weights)


def test_a_result_that_is_not_finite_is_not_written(model_dir, scan_file, tmp_path, capsys) -> None:
    weights = {name: 1e30 * value for name, value in read_bundle(model_dir).weights.items()}
    bundle = written(model_dir, tmp_path / "model", weights=weights)
    assert run(*infer_words(bundle, scan_file, tmp_path / "out")) == 1
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1 and "the reconstruction diverged: object holds NaN or infinite" in complaint
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", [field.name for field in fields(Reconstruction) if "ndarray" in str(field.type)])
def test_every_array_of_a_reconstruction_is_checked(name: str) -> None:
    good = Reconstruction(*([np.ones((2, 2))] * 2), (0, 0), np.ones((3, 2)), np.arange(3), 1.0)
    check_finite(good)
    with pytest.raises(PtychoError, match=rf"{name} holds NaN or infinite values \(1 of 2\)"):
        check_finite(replace(good, **{name: np.array([1.0, np.nan])}))


def test_a_pretraining_that_diverges_writes_no_weights(tmp_path: Path, capsys) -> None:
    words = ["--scans", 2, "--steps", 2, "--stages", 1, "--sweeps", 1, "--network_width", 4, "--quiet"]
    assert run("pretrain", "--output_dir", tmp_path, *words, "--learning_rate", 1e30) == 1
    complaint = capsys.readouterr().err
    assert re.fullmatch(r"error: pretraining diverged in stage 1 with --learning-rate 1e\+30; .*\n", complaint)
    assert not list(tmp_path.rglob("*.safetensors"))
