"""The pretrained network, the command that trains it, and the benchmark that evaluates it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import infer_words, run, train_words
from scans import rewritten

from ptycho_torch.bundle import read_bundle
from ptycho_torch.commands import benchmark
from ptycho_torch.commands.benchmark import Row, run_row
from ptycho_torch.config import BenchmarkConfig
from ptycho_torch.data.formats import read_scan
from ptycho_torch.data.subsets import network_subsets
from ptycho_torch.networks.posterior import PosteriorMean
from ptycho_torch.networks.pretrained import read_pretrained
from ptycho_torch.networks.unrolled import Unrolled
from ptycho_torch.simulation.objects import NATURAL_IMAGES
from ptycho_torch.simulation.truth import as_region, relative_error, turned_to
from ptycho_torch.simulation.unseen import simulated
from ptycho_torch.simulation.variety import HELD_OUT, random_object, random_scan
from ptycho_torch.training.pretraining import Crops, Example

TINY = (
    "--scans",
    3,
    "--steps",
    3,
    "--stages",
    2,
    "--sweeps",
    1,
    "--network_width",
    4,
    "--accelerator",
    "cpu",
    "--quiet",
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain")
    assert run("pretrain", "--output_dir", folder, *TINY) == 0
    return folder


def test_pretraining_writes_what_the_recipe_says_and_is_repeatable(tiny: Path, tmp_path: Path) -> None:
    found = read_pretrained(tiny / "pretrained.safetensors")
    assert found.options == {"network": {"stages": 2, "sweeps": 1, "width": 4}, "posterior": {"width": 6}}
    assert (found.recipe["scans"], found.recipe["steps"], len(found.recipe["gain_db"])) == (3, 3, 3)
    network, posterior = Unrolled(**found.options["network"]), PosteriorMean(**found.options["posterior"])
    network.load_state_dict(found.network)
    posterior.load_state_dict(found.posterior)
    learners = [*network.denoisers, posterior]
    assert all(float(learner.unet.last.weight.detach().abs().sum()) > 0 for learner in learners)
    assert run("pretrain", "--output_dir", tmp_path, *TINY) == 0
    again = read_pretrained(tmp_path / "pretrained.safetensors")
    assert all(torch.equal(again.network[name], value) for name, value in found.network.items())
    assert all(torch.equal(again.posterior[name], value) for name, value in found.posterior.items())


def test_pretraining_goes_on_after_the_last_finished_stage(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ptycho_torch.training import pretraining

    made = pretraining._examples
    monkeypatch.setattr(
        pretraining, "_examples", lambda see, *, seed, count: 1 / 0 if seed[1] else made(see, seed=seed, count=count)
    )
    assert run("pretrain", "--output_dir", tmp_path, *TINY) != 0
    monkeypatch.setattr(pretraining, "_examples", made)
    assert run("pretrain", "--output_dir", tmp_path, *TINY, "--resume") == 0
    whole, parts = (read_pretrained(folder / "pretrained.safetensors") for folder in (tiny, tmp_path))
    assert all(torch.allclose(whole.network[name], parts.network[name], atol=1e-6) for name in whole.network)
    capsys.readouterr()
    assert run("pretrain", "--output_dir", tmp_path, *TINY, "--seed", 5, "--resume") == 2
    assert "other options" in capsys.readouterr().err
    assert run("pretrain", "--output_dir", tmp_path / "nothing", *TINY, "--resume") == 2
    assert "no checkpoint" in capsys.readouterr().err


def test_random_scans_are_fixed_by_their_seed_and_never_show_a_held_out_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = (random_scan(np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(first.amplitude, second.amplitude) and np.array_equal(first.obj, second.obj)
    shown = set()

    def note(name: str, shape: tuple[int, int]) -> np.ndarray:
        shown.add(name)
        return np.full(shape, 0.5)

    monkeypatch.setattr("ptycho_torch.simulation.variety.natural_image", note)
    rng = np.random.default_rng(0)
    for _ in range(200):
        random_object((20, 20), rng=rng)
    assert shown == set(NATURAL_IMAGES) - set(HELD_OUT)


def test_crops_turn_the_truth_to_what_was_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(90, 70, dtype=torch.complex64, generator=generator)
    seen = torch.zeros(8, 90, 70)
    turned = truth * np.exp(0.8j)
    seen[0], seen[1] = turned.real - 1, turned.imag
    for crop in Crops([Example(seen, truth, torch.ones(90, 70))], seed=[0], steps=3):
        assert torch.allclose(torch.complex(1 + crop.seen[:, 0], crop.seen[:, 1]), crop.truth, atol=1e-5)
    assert torch.allclose(turned_to(truth, turned, torch.ones(90, 70)), turned, atol=1e-5)


@pytest.mark.parametrize("photons", [1e3, 1e5])
def test_the_shipped_network_comes_nearer_to_the_truth_than_its_sweeps(photons: float) -> None:
    """On images that training never uses."""
    pretrained = read_pretrained()
    network, bare = Unrolled(**pretrained.options["network"]), Unrolled(**pretrained.options["network"])
    network.load_state_dict(pretrained.network)
    scan = simulated(photons=photons)
    region, truth = as_region(scan, subsets=network_subsets(scan.positions, torch.from_numpy(scan.probe)))
    light = region.illumination()
    weight = (light / (0.3 * light.max())).clamp(max=1)
    with torch.inference_mode():
        errors = [float(relative_error(one(region), truth, weight)) for one in (network, bare)]
    assert errors[0] < 0.96 * errors[1]


def test_lines_are_drawn_under_the_probes_of_measured_scans(scan_file: Path, tmp_path: Path) -> None:
    config = BenchmarkConfig(output_dir=tmp_path, data=scan_file.parent, rows="lines")
    [row] = [row for row in benchmark.rows(config) if row.name == f"probe of {scan_file.stem}"]
    made, measured = row.make(), read_scan(scan_file)
    overlap = np.vdot(made.probe, measured.probe) / np.linalg.norm(made.probe) / np.linalg.norm(measured.probe)
    assert made.n == measured.n and abs(overlap) == pytest.approx(1, abs=1e-4)
    assert made.nphotons == 1e9 and len(made) == 196


def test_an_unseen_scan_becomes_a_picture_without_any_training(scan_file: Path, tmp_path: Path) -> None:
    assert run(*infer_words(Path("pretrained"), scan_file, tmp_path)) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["reference"]["phase_pearson"] > 0.9 and metrics["reference"]["amplitude_pearson"] > 0.9
    with np.load(scan_file) as scan:
        brighter = rewritten(
            scan_file, tmp_path / "brighter.npz", diff3d=10 * scan["diff3d"], probeGuess=10 * scan["probeGuess"]
        )
    assert run(*infer_words(Path("pretrained"), brighter, tmp_path / "b")) == 0
    with np.load(tmp_path / "reconstruction.npz") as one, np.load(tmp_path / "b" / "reconstruction.npz") as other:
        assert np.abs(one["object"] - other["object"]).max() < 1e-2 * np.abs(one["object"]).max()


def test_training_goes_on_from_the_weights_that_come_along(
    scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in train_words(scan_file, tmp_path, epochs=1) if word not in ("--network_width", 8)]
    assert run(*words, "--init", "pretrained", "--learning-rate", 1e-6) == 0
    trained, pretrained = read_bundle(tmp_path).weights, read_pretrained().network
    assert all(torch.allclose(trained[name], value, atol=1e-4) for name, value in pretrained.items())
    assert run(*infer_words(tmp_path, scan_file, tmp_path / "results")) == 0
    assert run(*words, "--init", "pretrained", "--network_width", 8) == 2
    assert "the weights are for stages 4, sweeps 4, network_width 16" in capsys.readouterr().err
    assert run(*words, "--init", "pretrained", "--network", "cnn") == 2
    assert "--init pretrained needs --network unrolled" in capsys.readouterr().err


def test_training_without_a_probe_keeps_the_one_that_it_has_found(scan_file: Path, tmp_path: Path) -> None:
    blind = rewritten(scan_file, tmp_path / "blind.npz", probeGuess=None)
    probes = {}
    for name, flags in {"given": [], "updated": ["--probe-update"]}.items():
        assert run(*train_words(scan_file, tmp_path / name, epochs=1), *flags) == 0
        probes[name] = read_bundle(tmp_path / name)
    assert run(*train_words(blind, tmp_path / "found", epochs=1), "--probe-from", "patterns", "--probe-update") == 0
    origins = [read_bundle(tmp_path / name).params["probe"]["origin"] for name in ("given", "updated", "found")]
    assert origins[1] == f"refined, {origins[0]} at first"
    assert origins[2].startswith("refined, found from the patterns")
    given, updated = (probes[name].probe for name in ("given", "updated"))
    assert not np.array_equal(given, updated)
    overlap = abs(np.vdot(given, updated)) / np.linalg.norm(given) / np.linalg.norm(updated)
    assert overlap > 0.95 and np.linalg.norm(updated) == pytest.approx(np.linalg.norm(given), rel=1e-4)


def test_a_benchmark_row_orders_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = run_row(Row("dose", "1e4", lambda: simulated(photons=1e4, n=32, positions=196)))
    decibels = {column: figures[column]["amplitude_psnr_db"] for column in benchmark.COLUMNS}
    assert decibels["limit"] > decibels["oracle"] - 0.5
    assert abs(decibels["cold"] - decibels["oracle"]) < 1
    assert figures["oracle"]["likelihood"] <= figures["cold"]["likelihood"] * (1 + 1e-4)
    assert figures["cold"]["frc_area"] > 0.5


def test_the_benchmark_writes_its_table_and_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = Row("dose", "1e5 photons", lambda: simulated(n=32, positions=100))
    monkeypatch.setitem(benchmark.GROUPS, "dose", lambda _: iter([small]))
    assert run("benchmark", "--output_dir", tmp_path, "--rows", "dose") == 0
    assert "dose, 1e5 photons: pretrained" in capsys.readouterr().out
    table = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(benchmark.COLUMNS) <= set(table["dose, 1e5 photons"])
    assert len((tmp_path / "benchmark.csv").read_text().splitlines()) == 1 + len(benchmark.COLUMNS)
    assert (tmp_path / "benchmark.png").stat().st_size > 1000
    assert run("benchmark", "--output_dir", tmp_path, "--rows", "doses") == 2
    assert "--rows doses" in capsys.readouterr().err
