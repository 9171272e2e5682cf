"""Patch statistics say what the formulas say, over the pixels that the probe lights, and files keep both phases."""

import json

import numpy as np
import pytest
from matplotlib.image import imread

from ptycho_torch.report.patch_statistics import (
    StatisticsRecorder,
    illuminated_pixels,
    log_line,
    patch_statistics,
    write_debug_dump,
)
from ptycho_torch.types import Reconstruction

N = 8


def patches_of(amplitudes: np.ndarray, seed: int = 0) -> np.ndarray:
    turns = np.random.default_rng(seed).uniform(-np.pi, np.pi, amplitudes.shape)
    return (amplitudes * np.exp(1j * turns)).astype(np.complex64)


@pytest.fixture
def lit() -> np.ndarray:
    inside = np.zeros((N, N), bool)
    inside[1:5, 2:7] = True
    return inside


@pytest.fixture
def predicted(lit) -> np.ndarray:
    amplitudes = np.random.default_rng(1).uniform(0.2, 1.2, (6, N, N))
    return patches_of(np.where(lit, amplitudes, 1e4))  # what lies in the dark is wild


def test_modes_add_before_the_threshold():
    probe = np.zeros((2, 4, 4), complex)
    probe[0, 0, 0], probe[1, 0, 0] = 3, 4j  # |P|² = 25: the most
    probe[0, 1, 2], probe[1, 1, 2] = 1, 0.5  # 1.25 = 5 %
    probe[1, 3, 3] = 1.1  # 1.21 < 5 %
    assert np.argwhere(illuminated_pixels(probe)).tolist() == [[0, 0], [1, 2]]


def test_known_values():
    amplitudes = np.empty((2, 2, 2))
    amplitudes[0], amplitudes[1] = [[1, 3], [1, 3]], [[5, 5], [5, 5]]
    stats = patch_statistics(patches_of(amplitudes), np.ones((2, 2), bool), phase="train", batch_idx=3)
    assert list(stats) == [
        "phase",
        "batch_idx",
        "batch_size",
        "global_mean",
        "global_std",
        "var_zero_mean",
        "per_patch",
    ]
    assert (stats["phase"], stats["batch_idx"], stats["batch_size"]) == ("train", 3, 2)
    assert stats["global_mean"] == pytest.approx(3.5)
    assert stats["global_std"] == pytest.approx(np.sqrt((2 * 2.5**2 + 2 * 0.5**2 + 4 * 1.5**2) / 8))
    assert stats["var_zero_mean"] == pytest.approx(0.5)  # 1 in the first patch, 0 in the second
    assert stats["per_patch"][0] == pytest.approx({"patch_idx": 0, "mean": 2, "std": 1, "min": 1, "max": 3})
    assert stats["per_patch"][1] == pytest.approx({"patch_idx": 1, "mean": 5, "std": 0, "min": 5, "max": 5}, abs=1e-6)


def test_the_dark_does_not_count(predicted, lit):
    stats = patch_statistics(predicted, lit, phase="inference", batch_idx=0)
    each = [np.abs(patch)[lit].astype(float) for patch in predicted]
    assert stats["global_mean"] == pytest.approx(np.mean(each))
    assert stats["global_std"] == pytest.approx(np.std(each))
    assert stats["var_zero_mean"] == pytest.approx(np.mean([values.var() for values in each]))
    assert [entry["patch_idx"] for entry in stats["per_patch"]] == [0, 1, 2, 3]
    for entry, values in zip(stats["per_patch"], each, strict=False):
        assert entry["std"] == pytest.approx(values.std())
        assert (entry["min"], entry["max"]) == pytest.approx((values.min(), values.max()))


def test_the_log_line_is_the_historic_one():
    stats = {"phase": "train", "batch_idx": 1, "global_mean": 0.8, "global_std": 1.23456789, "var_zero_mean": 2e-6}
    assert log_line(stats) == "Torch patch stats (train batch 1): mean=0.800000 std=1.234568 var_zero_mean=0.000002"


def test_the_recorder_stops_at_its_limit(predicted, lit):
    recorder = StatisticsRecorder("train", lit, limit=2)
    for index in range(2):
        assert not recorder.full
        assert recorder.add(predicted).startswith(f"Torch patch stats (train batch {index}): mean=")
    assert recorder.full
    with pytest.raises(ValueError, match="2 batches"):
        recorder.add(predicted)
    assert StatisticsRecorder("train", lit, limit=0).full
    assert not StatisticsRecorder("train", lit).full


def read(folder) -> list[dict]:
    return json.loads((folder / "analysis" / "torch_patch_stats.json").read_text())


def test_the_file_keeps_the_other_phase_and_replaces_its_own(predicted, lit, tmp_path):
    for phase, batches in (("train", 2), ("inference", 1), ("train", 3)):
        recorder = StatisticsRecorder(phase, lit)
        for _ in range(batches):
            recorder.add(predicted)
        recorder.write(tmp_path)
    entries = read(tmp_path)
    order = [(entry["phase"], entry["batch_idx"]) for entry in entries]
    assert order == [("inference", 0), ("train", 0), ("train", 1), ("train", 2)]
    assert entries[1] == patch_statistics(predicted, lit, phase="train", batch_idx=0)
    assert sorted(path.name for path in (tmp_path / "analysis").iterdir()) == [
        "torch_patch_grid.png",
        "torch_patch_stats.json",
    ]


@pytest.mark.parametrize("content", ["{", '{"phase": 1}', "[1, {}]", "\xff"])
def test_a_damaged_file_is_replaced(content, predicted, lit, tmp_path):
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "torch_patch_stats.json").write_text(content, encoding="latin-1")
    recorder = StatisticsRecorder("train", lit)
    recorder.add(predicted)
    recorder.write(tmp_path)
    assert len(read(tmp_path)) == 1


def test_the_grid_shows_the_first_patches(lit, tmp_path):
    steps = np.linspace(0.1, 1.0, 20)
    flat = patches_of(np.ones((20, N, N)) * steps[:, None, None])
    recorder = StatisticsRecorder("inference", lit)
    for batch in (flat[:9], flat[9:]):
        recorder.add(batch)
    flat[:] = 0  # the caller may use its memory again
    recorder.write(tmp_path)
    picture = imread(tmp_path / "analysis" / "torch_patch_grid.png")[..., :3]
    rows, columns = 4, 5  # of the lit box
    zoom = 800 // (4 * (columns + 2) - 2)
    centres = [
        (56 + 30 + int((row * (rows + 2) + 1.5) * zoom), 30 + int((column * (columns + 2) + 2.5) * zoom))
        for row in range(4)
        for column in range(4)
    ]
    greys = np.array([picture[centre] for centre in centres])
    assert np.ptp(greys, axis=1).max() == 0
    expected = (steps[:16] - steps[0]) / (steps[15] - steps[0])
    assert greys[:, 0] == pytest.approx(expected, abs=0.01)


@pytest.fixture
def reconstruction() -> Reconstruction:
    rng = np.random.default_rng(2)
    obj = patches_of(rng.uniform(0.5, 1.5, (20, 30)), seed=3)
    weight = np.zeros((20, 30), np.float32)
    weight[3:15, 4:25] = rng.uniform(1, 2, (12, 21))
    obj[weight == 0] = 1e6
    return Reconstruction(obj, weight, (-2, 9), np.zeros((6, 2)), np.arange(6), 1.0)


def test_the_debug_dump_against_its_formulas(predicted, lit, reconstruction, tmp_path):
    positions = np.random.default_rng(4).uniform(5, 40, (6, 2))
    write_debug_dump(tmp_path, patches=predicted, positions=positions, reconstruction=reconstruction, illuminated=lit)
    names = ["canvas.json", "offsets.json", "patches.npz", "pred_patches_amp_grid.png", "stats.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    offsets, stats, canvas = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("offsets", "stats", "canvas")
    )
    y, x = positions[:, 0], positions[:, 1]
    assert offsets["count"] == 6
    assert offsets["first_offsets"][1] == pytest.approx({"dx": x[1] - x.mean(), "dy": y[1] - y.mean()})
    assert (offsets["mean_dx"], offsets["mean_dy"]) == pytest.approx((0, 0), abs=1e-9)
    assert (offsets["std_dx"], offsets["std_dy"]) == pytest.approx((x.std(), y.std()))
    seen = np.abs(reconstruction.object[3:15, 4:25]).astype(float)
    inside = np.abs(predicted[:, 1:5, 2:7]).astype(float).reshape(6, -1)
    for name, values, contrast in (
        ("patch_amplitude", inside, inside.var(axis=1).mean()),
        ("canvas_amplitude", seen, seen.var()),
    ):
        expected = {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max()}
        assert stats[name] == pytest.approx(expected | {"var_zero_mean": contrast})
    assert canvas == {
        "patch_size": N,
        "canvas_size": [20, 30],
        "n_patches": 6,
        "max_abs_dx": pytest.approx(np.abs(x - x.mean()).max()),
        "max_abs_dy": pytest.approx(np.abs(y - y.mean()).max()),
        "origin": [-2, 9],
    }
    with np.load(tmp_path / "patches.npz") as file:
        assert file["patches"].dtype == np.complex64
        assert np.array_equal(file["patches"], predicted)
        assert file["offsets"] == pytest.approx(np.stack([y - y.mean(), x - x.mean()], axis=1))
        assert np.array_equal(file["positions"], positions)


def test_a_dump_of_unequal_numbers_is_refused(predicted, reconstruction, tmp_path):
    with pytest.raises(ValueError, match="6 patches but 5 positions"):
        write_debug_dump(tmp_path / "d", patches=predicted, positions=np.zeros((5, 2)), reconstruction=reconstruction)
    assert not (tmp_path / "d").exists()
