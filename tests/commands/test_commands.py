"""The commands as users type them: what they leave behind, what they print, and what they keep to."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import infer_words, run, train_words
from scans import rewritten

from ptycho_torch.bundle import read_bundle, write_bundle
from ptycho_torch.cli import COMMANDS, command_parser
from ptycho_torch.scale import closed_form


def reconstruction(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "reconstruction.npz") as file:
        return {key: file[key] for key in file.files}


def printed_scale(text: str) -> float:
    found = re.search(r"^intensity_scale: (\d+\.\d{6}) \(", text, re.MULTILINE)
    assert found, text
    return float(found[1])


def test_inference_leaves_arrays_images_numbers_and_a_report(
    model_dir: Path, scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = infer_words(model_dir, scan_file, tmp_path / "out")
    assert run(*words, "--log-patch-stats", "--patch-stats-limit", 2, "--debug-dump", tmp_path / "dump") == 0
    text = capsys.readouterr().out
    for name in ("reconstructed_amplitude.png", "reconstructed_phase.png", "report.html", "metrics.json"):
        assert (tmp_path / "out" / name).stat().st_size > 200, name
    names = {"pred_patches_amp_grid.png", "offsets.json", "stats.json", "canvas.json", "patches.npz"}
    assert names == {path.name for path in (tmp_path / "dump").iterdir()}
    result, metrics = reconstruction(tmp_path / "out"), json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert result["object"].dtype == np.complex64 and result["object"].shape == result["weight"].shape
    assert len(metrics["misfit_R_per_pattern"]) == 144 and metrics["misfit_R"] < 0.2
    assert metrics["reference"]["amplitude_pearson"] > 0.8 and metrics["reference"]["phase_pearson"] > 0.6
    assert printed_scale(text) == pytest.approx(read_bundle(model_dir).params["intensity_scale"]["value"], abs=5e-7)
    assert len(re.findall(r"Torch patch stats \(inference batch [01]\): mean=\d\.\d{6} std=", text)) == 2


def test_the_picture_lies_on_the_grid_of_the_scan(model_dir: Path, scan_file: Path, tmp_path: Path) -> None:
    assert run(*infer_words(model_dir, scan_file, tmp_path)) == 0
    result, truth = reconstruction(tmp_path), np.load(scan_file)["objectGuess"]
    (y0, x0), (y1, x1) = result["positions"].min(0).astype(int) + 6, result["positions"].max(0).astype(int) - 6
    top, left = result["origin"]

    def likeness(dy: int, dx: int) -> float:
        seen = result["object"][y0 - top + dy : y1 - top + dy, x0 - left + dx : x1 - left + dx]
        part = truth[y0:y1, x0:x1]
        return abs(np.vdot(seen - seen.mean(), part - part.mean()))

    best = max((likeness(dy, dx), dy, dx) for dy in range(-3, 4) for dx in range(-3, 4))
    assert best[1:] == (0, 0)


def test_training_and_inference_report_the_same_patch_statistics(
    model_dir: Path, scan_file: Path, tmp_path: Path
) -> None:
    assert run(*infer_words(model_dir, scan_file, tmp_path), "--log-patch-stats") == 0
    trained = json.loads((model_dir / "analysis" / "torch_patch_stats.json").read_text())
    inferred = json.loads((tmp_path / "analysis" / "torch_patch_stats.json").read_text())
    assert len(trained) == len(inferred) == 9
    for one, other in zip(trained, inferred, strict=True):
        assert (one["phase"], other["phase"]) == ("train", "inference")
        assert other["global_mean"] / one["global_mean"] == pytest.approx(1, abs=0.03)
    means = [np.mean([entry["global_mean"] for entry in entries]) for entries in (trained, inferred)]
    assert means[1] / means[0] == pytest.approx(1, abs=0.01)


def test_the_closed_form_of_1e5_photons_and_64_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert closed_form(1e5, 64) == pytest.approx(9.882118, abs=5e-7)
    scan = tmp_path / "scan.npz"
    assert run("simulate", "--output", scan, "--positions", 36, "--quiet") == 0
    words = [*train_words(scan, tmp_path / "model", epochs=1), "--intensity-scale", "closed-form", "--nphotons", "1e5"]
    assert run(*words) == 0
    assert run(*infer_words(tmp_path / "model", scan, tmp_path / "out")) == 0
    assert capsys.readouterr().out.count("intensity_scale: 9.882118 (closed form; bundle") == 2
    legacy = read_bundle(tmp_path / "model").legacy
    assert legacy["intensity_scale"] == closed_form(1e5, 64) and legacy["N"] == 64 and legacy["nphotons"] == 1e5


def test_a_learned_scale_leaves_a_wrong_closed_form(scan_file: Path, tmp_path: Path) -> None:
    right = {}
    for name, nphotons in (("low", 4e4), ("high", 2.5e5)):
        words = [*train_words(scan_file, tmp_path / name, epochs=12), "--nphotons", nphotons]
        assert run(*words) == 0
        right[name] = read_bundle(tmp_path / name).params["intensity_scale"]
        assert right[name]["origin"] == "learned, from closed form"
    implied = np.linalg.norm(np.load(scan_file)["probeGuess"]) / 16
    assert right["low"]["value"] == pytest.approx(implied, rel=0.15)
    assert right["high"]["value"] == pytest.approx(implied, rel=0.15)


def with_scale(model: Path, folder: Path, factor: float) -> Path:
    bundle = read_bundle(model)
    bundle.params["intensity_scale"]["value"] *= factor
    write_bundle(
        folder,
        weights=bundle.weights,
        params=bundle.params,
        legacy=bundle.legacy,
        probe=bundle.probe,
        provenance=bundle.provenance,
    )
    return folder


def test_doubling_the_stored_scale_halves_the_object(model_dir: Path, scan_file: Path, tmp_path: Path) -> None:
    doubled = with_scale(model_dir, tmp_path / "doubled", 2.0)
    assert run(*infer_words(model_dir, scan_file, tmp_path / "once")) == 0
    assert run(*infer_words(doubled, scan_file, tmp_path / "twice")) == 0
    once, twice = reconstruction(tmp_path / "once"), reconstruction(tmp_path / "twice")
    np.testing.assert_allclose(2 * twice["object"], once["object"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(twice["weight"], 4 * once["weight"], rtol=1e-4)
    assert twice["intensity_scale"] == 2 * once["intensity_scale"]


@pytest.mark.parametrize("flux", [1e-2, 1e2])
def test_a_change_of_flux_that_the_probe_records_leaves_the_object_alone(
    model_dir: Path, scan_file: Path, tmp_path: Path, flux: float
) -> None:
    with np.load(scan_file) as file:
        amplitude, probe = file["diff3d"], file["probeGuess"]
    brighter = rewritten(scan_file, tmp_path / "b.npz", diff3d=amplitude * flux**0.5, probeGuess=probe * flux**0.5)
    unrecorded = rewritten(scan_file, tmp_path / "u.npz", diff3d=amplitude * flux**0.5)
    objects = {}
    for name, scan in (("plain", scan_file), ("brighter", brighter), ("unrecorded", unrecorded)):
        assert run(*infer_words(model_dir, scan, tmp_path / name)) == 0
        objects[name] = reconstruction(tmp_path / name)["object"]
    error = np.linalg.norm(objects["brighter"] - objects["plain"]) / np.linalg.norm(objects["plain"])
    assert error < 1e-3
    np.testing.assert_allclose(objects["unrecorded"], flux**0.5 * objects["plain"], rtol=1e-3, atol=1e-3 * flux**0.5)
    scales = []
    for name, scan in (("plain", scan_file), ("brighter", brighter)):
        words = [*train_words(scan, tmp_path / f"m-{name}", epochs=1), "--intensity-scale", "measured"]
        assert run(*words) == 0
        scales.append(read_bundle(tmp_path / f"m-{name}").params["intensity_scale"]["value"])
    assert scales[1] / scales[0] == pytest.approx(flux**0.5, rel=1e-3)


def test_the_same_command_makes_the_same_bundle_and_another_seed_another(scan_file: Path, tmp_path: Path) -> None:
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(*train_words(scan_file, tmp_path / name), "--seed", seed) == 0
        digests.append(read_bundle(tmp_path / name).digest)
    assert digests[0] == digests[1] != digests[2]
    assert (tmp_path / "a" / "bundle_digest.txt").read_text().startswith(digests[0])


def test_a_scan_without_a_probe_uses_that_of_the_bundle(model_dir: Path, scan_file: Path, tmp_path: Path) -> None:
    bare = rewritten(scan_file, tmp_path / "bare.npz", probeGuess=None)
    assert run(*infer_words(model_dir, scan_file, tmp_path / "own")) == 0
    assert run(*infer_words(model_dir, bare, tmp_path / "bundles")) == 0
    own, bundles = reconstruction(tmp_path / "own"), reconstruction(tmp_path / "bundles")
    np.testing.assert_array_equal(own["object"], bundles["object"])


def test_n_images_takes_the_patterns_at_the_centre_whatever_the_order_of_flags(
    model_dir: Path, scan_file: Path, tmp_path: Path
) -> None:
    words = ["--n_images", 30, "--output_dir", tmp_path, "--quiet", "--test_data", scan_file, "--model_path", model_dir]
    assert run("inference", *words) == 0
    used = reconstruction(tmp_path)
    assert len(used["positions"]) == 30
    with np.load(scan_file) as file:
        positions = np.stack([file["ycoords"], file["xcoords"]], 1)
    distance = np.linalg.norm(positions - (positions.min(0) + positions.max(0)) / 2, axis=1)
    assert set(used["pattern_indices"]) == set(np.argsort(distance)[:30])


@pytest.mark.parametrize(
    "change",
    [
        ["--network", "cnn"],
        ["--network", "cnn", "--gridsize", 1, "--torch-loss-mode", "mae"],
        ["--scheduler", "Exponential", "--tv_weight", 0.01],
        ["--scheduler", "MultiStage", "--probe-mask", "--probe-mask-diameter", 20],
        ["--scheduler", "Adaptive", "--disable-checkpointing", "--no-deterministic"],
        ["--precision", "bf16-mixed", "--accumulate-grad-batches", 2],
        ["--logger", "tensorboard", "--early-stop-patience", 1],
        ["--profile", "smoke", "--logger", "none", "--num-workers", 1],
    ],
    ids=lambda change: " ".join(map(str, change[:2])),
)
def test_variants_of_training_end_in_a_bundle_that_infers(change: list, scan_file: Path, tmp_path: Path) -> None:
    assert run(*train_words(scan_file, tmp_path, epochs=2), *change) == 0
    assert run(*infer_words(tmp_path, scan_file, tmp_path / "out")) == 0
    result = reconstruction(tmp_path / "out")["object"]
    assert np.isfinite(result).all() and np.abs(result).std() > 0.005


def test_the_learning_rate_follows_its_schedule(scan_file: Path, tmp_path: Path) -> None:
    for name in ("Default", "Exponential", "MultiStage", "Constant"):
        assert run(*train_words(scan_file, tmp_path / name, epochs=4), "--scheduler", name) == 0
        log = [json.loads(line) for line in (tmp_path / name / "training_log.jsonl").read_text().splitlines()]
        rates = [entry["learning_rate"] for entry in log]
        assert len(rates) == 4
        assert (rates[-1] < 0.6 * max(rates)) is (name != "Constant"), (name, rates)
        assert all(np.isfinite(entry["val_loss"]) for entry in log)


STOPPED = """
import os
from ptycho_torch.cli import main
from ptycho_torch.training.callbacks import JsonLines

log = JsonLines.on_train_epoch_end

def log_and_stop(self, trainer, module):
    log(self, trainer, module)
    if trainer.current_epoch == 1:
        os.kill(os.getpid(), {number})

JsonLines.on_train_epoch_end = log_and_stop
raise SystemExit(main({words}))
"""
"""A training that gets a signal at the end of its second epoch, however fast the machine is."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_resumes_to_the_same_bundle(number: int, scan_file: Path, tmp_path: Path) -> None:
    words = [str(word) for word in train_words(scan_file, tmp_path / "cut", epochs=4)]
    code = STOPPED.format(number=int(number), words=words)
    stopped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert stopped.returncode == 128 + number
    assert stopped.stderr == "error: training was interrupted after 2 finished epochs; go on with --resume\n"
    assert not (tmp_path / "cut" / "wts.h5.zip").exists()
    assert run(*train_words(scan_file, tmp_path / "cut", epochs=4), "--resume") == 0
    if number == signal.SIGTERM:
        assert run(*train_words(scan_file, tmp_path / "straight", epochs=4)) == 0
        assert read_bundle(tmp_path / "cut").digest == read_bundle(tmp_path / "straight").digest


def test_evaluate_compares_a_reconstruction_with_the_truth(
    model_dir: Path, scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*infer_words(model_dir, scan_file, tmp_path)) == 0
    capsys.readouterr()
    assert run("evaluate", tmp_path / "reconstruction.npz", scan_file, "--output_dir", tmp_path / "e") == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["amplitude_psnr_db"] > 12
    assert {path.suffix for path in (tmp_path / "e").iterdir()} == {".json", ".csv", ".png"}


def test_bundle_commands(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bundle", "inspect", model_dir) == 0
    assert "intensity_scale" in capsys.readouterr().out
    assert run("bundle", "verify", model_dir) == 0
    altered = tmp_path / "wts.h5.zip"
    content = bytearray((model_dir / "wts.h5.zip").read_bytes())
    content[len(content) // 2] ^= 1
    altered.write_bytes(content)
    assert run("bundle", "verify", altered) == 4


def test_help_and_a_wrong_flag_answer_without_torch() -> None:
    program = """
import sys
from ptycho_torch.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)
sys.exit(code)
"""
    for words, code in ((["train", "--help"], 0), (["--help"], 0), (["infer", "--nonsense"], 2), (["fly"], 2)):
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert code == 0 or done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_a_sentence(name: str) -> None:
    for action in command_parser(name)._actions:
        assert action.help


def test_a_quiet_training_prints_one_line_with_the_scale_the_bundle_and_the_misfit(
    scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*train_words(scan_file, tmp_path, epochs=1)) == 0
    line = rf"intensity_scale: \d+\.\d{{6}} \(learned, from measured; bundle {re.escape(str(tmp_path))}/wts.h5.zip\); "
    assert re.fullmatch(line + r"held-out misfit \d\S* per pixel\n", capsys.readouterr().out)


def test_the_historic_commands_run_verbatim(scan_file: Path, tmp_path: Path) -> None:
    train = (
        "--train_data_file X --test_data_file Y --output_dir D --n_images 8 --gridsize 2 --batch_size 4 --max_epochs 1 "
        "--torch-loss-mode poisson --accelerator cpu --deterministic --quiet --log-patch-stats --patch-stats-limit 2"
    )
    infer = (
        "--model_path D --test_data Y --output_dir O --n_images 128 --accelerator cpu --debug-dump P --log-patch-stats "
        "--patch-stats-limit 2"
    )
    places = {
        "X": scan_file,
        "Y": shutil.copy(scan_file, tmp_path / "y.npz"),
        "D": tmp_path / "d",
        "O": tmp_path / "o",
        "P": tmp_path / "p",
    }
    for module, words in (("train", train), ("inference", infer)):
        arguments = [str(places.get(word, word)) for word in words.split()]
        subprocess.run([sys.executable, "-m", f"ptycho_torch.{module}", *arguments], check=True)
    assert (tmp_path / "d" / "wts.h5.zip").exists() and (tmp_path / "o" / "reconstructed_phase.png").exists()
