"""`run` and `check`: one verb from another program's file to an image, and what is to be known before."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ptycho_torch.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import layouts
from layouts import Truth


@pytest.fixture(scope="module")
def truth() -> Truth:
    return layouts.a_scan(rows=8, columns=11, step=5.0)


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_a_file_with_a_probe_is_one_command(truth: Truth, tmp_path: Path, monkeypatch, capsys) -> None:
    layouts.ptychodus(tmp_path, truth)
    monkeypatch.chdir(tmp_path)
    assert main(["run", "product.h5"]) == 0
    folder = tmp_path / "product_results"
    found = metrics(folder)
    assert found["verdict"]["status"] == "good" and found["reference"]["phase_psnr_db"] > 25
    assert (folder / "report.html").exists() and "verdict good" in capsys.readouterr().out


def test_without_a_probe_one_is_found(truth: Truth, tmp_path: Path, capsys) -> None:
    with_probe, without = tmp_path / "a", tmp_path / "b"
    for folder in (with_probe, without):
        folder.mkdir()
    words = ["--output_dir", str(with_probe / "out"), "--quiet"]
    assert main(["run", str(layouts.ptychodus(with_probe, truth)), *words]) == 0
    words = ["--output_dir", str(without / "out"), "--quiet"]
    assert main(["run", str(layouts.ptylab(without, truth)), *words]) == 0
    one, other = metrics(with_probe / "out"), metrics(without / "out")
    assert other["verdict"]["status"] == "good"
    assert other["misfit_R"] < 1.05 * one["misfit_R"]


def test_a_probe_out_of_focus_is_freed(truth: Truth, tmp_path: Path, capsys) -> None:
    n = layouts.N
    k = np.fft.fftfreq(n)
    phase = np.exp(-1j * 40 * (k[:, None] ** 2 + k**2))
    wrong = np.fft.ifft2(np.fft.fft2(truth.probe) * phase).astype(np.complex64)
    spoiled = Truth(truth.counts, truth.positions, wrong, truth.obj, truth.bad)
    path = layouts.ptychodus(tmp_path, spoiled)
    assert main(["run", str(path), "--output_dir", str(tmp_path / "out"), "--no-diagnose"]) == 0
    said = capsys.readouterr().out
    assert "with the probe freed" in said and "more, and is kept" in said
    assert metrics(tmp_path / "out")["verdict"]["status"] == "good"


def test_check_says_what_a_file_holds(truth: Truth, tmp_path: Path, capsys) -> None:
    path = layouts.eiger(tmp_path, truth)
    assert main(["check", str(path), "--crop", "32"]) == 0
    text = capsys.readouterr().out
    for words in ("DECTRIS", "88 of 32 x 32", "declares", "no probe", "object pixel", "trial"):
        assert words in text
    assert main(["check", str(path), "--json", "--no-trial"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["optics"]["wavelength_m"] == pytest.approx(layouts.WAVELENGTH_M)
    assert found["frames"]["number"] == 88 and "trial" not in found
    assert 0.35e9 < found["memory_bytes"] < 0.36e9
    assert any("scan_positions.csv" in note for note in found["notes"])


def test_check_says_where_the_memory_is_too_little(truth: Truth, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("ptycho_torch.commands.check.available_bytes", lambda: 2e8)
    assert main(["check", str(layouts.ptypy(tmp_path, truth)), "--no-trial"]) == 0
    assert "0.2 GB are free: a part of it needs less" in capsys.readouterr().out


def test_check_names_what_is_wrong(truth: Truth, tmp_path: Path, capsys) -> None:
    path = layouts.ptylab(tmp_path, truth)
    assert main(["check", str(path), "--distance", "80m", "--no-trial"]) == 0
    assert "--position-unit" in capsys.readouterr().out
    low, high = truth.positions[:, 0].min(), truth.positions[:, 0].max()
    mirrored = truth.positions * (-1, 1) + (low + high, 0)
    flipped = Truth(truth.counts, mirrored, truth.probe, truth.obj, truth.bad)
    path = layouts.ptychodus(tmp_path, flipped)
    assert main(["check", str(path), "--strict"]) == 5
    assert "flip" in capsys.readouterr().out


def test_positions_that_lie_otherwise_are_found_where_the_format_does_not_tell(
    truth: Truth, tmp_path: Path, capsys
) -> None:
    """A stack of images with a table says nothing about axes: `run` finds them, `check` names the flags."""
    swapped = Truth(truth.counts, truth.positions[:, ::-1].copy(), truth.probe, truth.obj, truth.bad)
    path = layouts.eiger(tmp_path, swapped)
    assert main(["check", str(path), "--crop", "32"]) == 0
    assert "--swap-axes" in capsys.readouterr().out
    words = ["--crop", "32", "--sweeps", "20", "--output_dir"]
    assert main(["run", str(path), *words, str(tmp_path / "found")]) == 0
    assert "orientation: the positions lie otherwise: --swap-axes; the deflections" in capsys.readouterr().out
    assert metrics(tmp_path / "found")["verdict"]["status"] == "good"
    assert any("--swap-axes" in note for note in metrics(tmp_path / "found")["made_by"]["notes"])
    main(["run", str(path), "--orientation", "given", "--no-diagnose", *words, str(tmp_path / "given")])
    assert "orientation:" not in capsys.readouterr().out
    assert metrics(tmp_path / "given")["verdict"]["status"] != "good"


def test_a_format_that_tells_is_believed_unless_asked(truth: Truth, tmp_path: Path, capsys) -> None:
    low, high = truth.positions[:, 1].min(), truth.positions[:, 1].max()
    mirrored = truth.positions * (1, -1) + (0, low + high)
    path = layouts.ptychodus(tmp_path, Truth(truth.counts, mirrored, truth.probe, truth.obj, truth.bad))
    assert main(["run", str(path), "--orientation", "auto", "--output_dir", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "orientation: --flip " in said and "x better than the positions as given" in said and "verdict good" in said


@pytest.mark.parametrize(
    "words, says",
    [
        (["--photon-energy", "8"], "--photon-energy 8keV"),
        (["--photon-energy", "8keV", "--electron-voltage", "300kV"], "leave one of them out"),
        (["--photon-energy", "3GeV"], "3e+09 eV"),
        (["--rotation", "-34"], "--rotation -34deg"),
        (["--frames", "a:b"], "--frames is 'a:b'"),
        (["--frames", "900:"], "no frame"),
        (["--beam-centre", "3"], "row,column"),
        (["--defocus", "-200A"], "--semiangle"),
        (["--crop", "33"], "even"),
    ],
)
def test_what_is_stated_wrongly_is_refused(truth: Truth, tmp_path: Path, capsys, words: list[str], says: str) -> None:
    path = layouts.ptypy(tmp_path, truth)
    assert main(["check", str(path), "--no-trial", *words]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_a_stated_energy_overrides_the_file_and_is_recorded(truth: Truth, tmp_path: Path, capsys) -> None:
    path = layouts.ptypy(tmp_path, truth)
    assert main(["check", str(path), "--no-trial", "--json", "--photon-energy", "16keV"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["optics"]["object_pixel_m"] == pytest.approx(layouts.PIXEL_M / 2)
    assert any("photon_energy_ev 16000" in note for note in found["notes"])
