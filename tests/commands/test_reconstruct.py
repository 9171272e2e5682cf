"""The door in Python: the command's object in four lines, arrays in, arrays out, and nothing else touched."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
import torch
from conftest import infer_words, run
from torch import Tensor, nn

import ptycho_torch as pt


@pytest.fixture(scope="module")
def scan(scan_file: Path) -> pt.Scan:
    return pt.read_scan(scan_file)


@pytest.fixture(scope="module")
def result(scan: pt.Scan) -> pt.Reconstruction:
    return pt.reconstruct(scan, model="flat", refine=4, probe_update=True, modes=2)


def switches() -> dict[str, Any]:
    """Every global switch of torch and Python that a run might turn."""
    return {
        "threads": torch.get_num_threads(),
        "mode": torch.get_deterministic_debug_mode(),
        "fills": torch.utils.deterministic.fill_uninitialized_memory,
        "random": torch.random.get_rng_state().tolist(),
        "numpy random": str(np.random.get_state()),  # noqa: NPY002
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "warnings": list(warnings.filters),
        "precision": torch.get_float32_matmul_precision(),
    }


@pytest.fixture
def unusual_switches() -> Iterator[dict[str, Any]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    torch.set_deterministic_debug_mode("default")
    torch.manual_seed(5)
    yield switches()
    torch.set_num_threads(threads)


WORDS = {
    "pretrained": ([], {}),
    "free": (
        ["--refine", 5, "--probe-update", "--modes", 2, "--position-correction", "free", "--n_images", 100],
        {"refine": 5, "probe_update": True, "modes": 2, "position_correction": "free", "patterns": 100},
    ),
    "denoised": (["--refine", 5, "--denoise", "--probe-mask"], {"refine": 5, "denoise": True, "probe_mask": True}),
}


@pytest.mark.parametrize("name", WORDS)
def test_four_lines_give_what_the_command_gives_bit_for_bit(
    name: str, scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, options = WORDS[name]
    assert run(*infer_words("pretrained", scan_file, tmp_path / "command"), *words) == 0
    capsys.readouterr()
    scan = pt.read_scan(scan_file)
    result = pt.reconstruct(scan, device="cpu", **options)
    figure = result.plot()
    assert isinstance(figure, matplotlib.figure.Figure)
    result.save(tmp_path / "door.npz")
    assert (tmp_path / "door.npz").read_bytes() == (tmp_path / "command" / "reconstruction.npz").read_bytes()
    metrics = json.loads((tmp_path / "command" / "metrics.json").read_text())
    assert metrics["misfit_R"] == result.scores["misfit_R"]
    assert metrics["intensity_scale"] == result.provenance["intensity_scale"]
    assert capsys.readouterr() == ("", "")


def test_a_trained_model_serves_as_path_and_as_value(model_dir: Path, scan: pt.Scan) -> None:
    model = pt.load_model(model_dir)
    by_path, by_value = (pt.reconstruct(scan, model=each) for each in (model_dir, model))
    assert np.array_equal(by_path.object, by_value.object)
    with pytest.raises(pt.BundleError):
        pt.load_model(model_dir / "nowhere")


def test_arrays_go_in_and_come_out(scan: pt.Scan) -> None:
    given = pt.Scan.from_arrays(scan.patterns, scan.positions, probe=scan.probe, domain="amplitude")
    result = pt.reconstruct(given)
    assert np.array_equal(result.object, pt.reconstruct(scan).object)
    assert len(result.provenance["input"]["sha256"]) == 64 and result.provenance["ptycho_torch"] == pt.__version__
    other = pt.Scan.from_arrays(2 * scan.patterns, scan.positions, probe=scan.probe, domain="amplitude")
    assert pt.reconstruct(other).provenance["input"] != result.provenance["input"]
    assert json.dumps(result.provenance)


def test_nothing_is_printed_written_or_left_turned(
    scan: pt.Scan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    unusual_switches: dict[str, Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    pt.reconstruct(scan, refine=2, denoise=True, probe_update=True, say=lines.append)
    assert switches() == unusual_switches

    def fail(_: object) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pt.reconstruct(scan, refine=2, on_sweep=fail)
    assert switches() == unusual_switches
    assert capsys.readouterr() == ("", "") and not list(tmp_path.iterdir())
    assert any(line.startswith("refinement: ") for line in lines) and len(lines) > 2


@pytest.mark.parametrize("kind", [bool, np.bool_])
def test_a_callback_sees_every_sweep_and_stops_the_run(kind: type, scan: pt.Scan) -> None:
    seen = []

    def watch(progress: Any) -> Any:
        seen.append(progress)
        return kind(progress.sweep == 3)

    result = pt.reconstruct(scan, model="flat", refine=8, on_sweep=watch)
    assert [each.sweep for each in seen] == [1, 2, 3] and {each.sweeps for each in seen} == {8}
    assert seen[-1].held_out < seen[0].held_out
    assert repr(seen[0]).startswith("Progress(sweep=1, sweeps=8, held_out=") and "tensor" not in repr(seen[0])
    assert result.scores["refinement"]["sweeps"] == 3
    rows, columns = (slice(o - p, o - p + s) for o, p, s in zip(result.origin, seen[-1].origin, (40, 40), strict=True))
    nearer = [np.abs(each.obj.numpy()[rows, columns] - result.object[:40, :40]).mean() for each in seen]
    assert nearer[-1] < nearer[0]


class Ones(nn.Module):
    """A network without weights, that must be asked in evaluation mode."""

    def forward(self, region: pt.Region) -> Tensor:
        assert not self.training
        return torch.ones(region.shape, dtype=torch.complex64, device=region.device)


def test_an_own_network_gives_the_first_object(scan: pt.Scan) -> None:
    network = Ones()
    result = pt.reconstruct(scan, model=network)
    assert np.allclose(result.object, result.object[0, 0]) and network.training
    refined = pt.reconstruct(scan, model=network, refine=6)
    assert refined.scores["misfit_R"] < 0.5 * result.scores["misfit_R"]
    assert refined.provenance["model"]["kind"] == "Ones"


def test_a_reconstruction_is_a_model_too(scan: pt.Scan, result: pt.Reconstruction, tmp_path: Path) -> None:
    result.save(tmp_path / "first.h5")
    by_value, by_file = (pt.reconstruct(scan, model=each, refine=2) for each in (result, tmp_path / "first.h5"))
    assert np.array_equal(by_value.object, by_file.object)


@pytest.mark.parametrize("names", [("object", "origin", "intensity_scale"), ("object", "origin")])
def test_an_object_and_where_it_lies_are_a_start(
    names: tuple[str, ...], scan: pt.Scan, result: pt.Reconstruction, scan_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "start.npz"
    np.savez(path, **{name: getattr(result, name) for name in names})  # type: ignore[arg-type]
    words = ("refine", "--test_data", scan_file, "--output_dir", tmp_path / "out", "--start", path, "--sweeps", 2)
    assert run(*words, "--quiet") == 0
    again = pt.Reconstruction.from_file(tmp_path / "out" / "reconstruction.npz")
    if "intensity_scale" in names:
        assert np.array_equal(again.object, pt.reconstruct(scan, model=result, refine=2).object)
    with pytest.raises(pt.DataError, match="no weight, no positions"):
        pt.Reconstruction.from_file(path)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ({"origin": np.array(["a", "b"])}, "origin is <U1"),
        ({"origin": np.array([np.nan, 0])}, "origin is .nan"),
        ({"object": np.ones((5, 5, 5))}, "object is float64 of shape"),
        ({"intensity_scale": np.ones(3)}, "intensity_scale is float64 of shape"),
        ({"intensity_scale": np.float64("nan")}, "intensity_scale is nan"),
        ({"intensity_scale": np.float64(-1)}, "intensity_scale is -1"),
        ({"probe": np.ones(4)}, "probe is float64 of shape"),
        ({"weight": np.ones((3, 3))}, "do not fit"),
    ],
)
def test_damaged_arrays_are_named(
    damage: dict[str, np.ndarray], complaint: str, result: pt.Reconstruction, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.npz"
    result.save(path)
    np.savez(path, **{**dict(np.load(path)), **damage})
    with pytest.raises(pt.DataError, match=complaint) as found:
        pt.Reconstruction.from_file(path)
    assert "\n" not in str(found.value)


def test_what_cannot_be_written_is_said_in_a_line(result: pt.Reconstruction, tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder.npz", tmp_path / "file" / "result.npz"):
        with pytest.raises(pt.UsageError, match="can't be written"):
            result.save(path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder.npz"]


class Calm:
    """A regulariser that pulls the object to its mean."""

    def proximal(self, obj: Tensor, step: float) -> Tensor:
        return torch.lerp(obj, obj.mean().expand_as(obj), min(1.0, 0.1 * step))


def test_a_regulariser_acts(scan: pt.Scan) -> None:
    free, calm = (pt.reconstruct(scan, model="flat", refine=4, regulariser=each) for each in (None, Calm()))
    assert calm.object.std() < 0.98 * free.object.std()
    assert calm.provenance["settings"]["regulariser"] == "Calm"


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_a_reconstruction_comes_back_from_a_file(suffix: str, result: pt.Reconstruction, tmp_path: Path) -> None:
    path = tmp_path / f"result{suffix}"
    result.save(path)
    again = pt.Reconstruction.from_file(path)
    for name, value in vars(result).items():
        other = getattr(again, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype and np.array_equal(value, other), name
        elif name not in ("scores", "provenance", "verdict", "examples"):
            assert value == other, name
    assert again.provenance == json.loads(json.dumps(result.provenance))
    assert again.scores["misfit_R"] == result.scores["misfit_R"]
    assert again.verdict is not None and again.verdict.status == result.verdict.status
    assert repr(again) == repr(result)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_datasets_say_their_units(result: pt.Reconstruction, tmp_path: Path) -> None:
    import h5py

    result.save(tmp_path / "result.h5")
    with h5py.File(tmp_path / "result.h5") as file:
        assert file["probe"].attrs["units"] == "sqrt(photons)" and file["positions"].attrs["units"] == "object pixels"
        assert file["object"].shape == result.object.shape


def test_images_for_other_programs(result: pt.Reconstruction, tmp_path: Path) -> None:
    import tifffile

    result.save(tmp_path / "result.tif")
    amplitude, phase = tifffile.imread(tmp_path / "result.tif")
    assert amplitude.dtype == phase.dtype == np.float32
    assert np.array_equal(amplitude, np.abs(result.object)) and np.array_equal(phase, np.angle(result.object))


def test_a_reconstruction_is_a_value(result: pt.Reconstruction) -> None:
    again = pickle.loads(pickle.dumps(result))
    assert np.array_equal(again.object, result.object) and again.provenance == result.provenance
    assert "\n" not in repr(result) and "144 patterns" in repr(result) and "2 probe modes" in repr(result)
    page = result._repr_html_()
    assert "data:image/png;base64," in page and "misfit R" in page and len(page) < 400_000
    assert len(result.plot().axes) == 6  # three images, three colour bars


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"probe_update": True}, "probe_update without refine"),
        ({"denoise": True, "regulariser": Calm()}, "denoise, regulariser without refine"),
        ({"modes": 2, "refine": 2}, "modes needs probe_update"),
        ({"modes": 9, "refine": 2, "probe_update": True}, "modes is 9"),
        ({"refine": 0}, "refine is 0"),
        ({"patterns": 0}, "patterns is 0"),
        ({"likelihood": "gauss"}, "likelihood is 'gauss'"),
        ({"position_correction": "some"}, "position_correction is 'some'"),
        ({"probe_from": "nowhere"}, "probe_from is 'nowhere'"),
        ({"precision": "64"}, "precision is '64'"),
        ({"device": "abacus"}, "abacus"),
        ({"device": torch.device("xpu", 99)}, "device xpu:99"),
        ({"refine": 1.5}, "refine is 1.5: a whole number"),
        ({"refine": "20"}, "refine is '20': a whole number"),
        ({"refine": True}, "refine is True: a whole number"),
        ({"patterns": 3.5}, "patterns is 3.5"),
        ({"refine": 1, "likelihood": None}, "likelihood is None"),
        ({"refine": 1, "likelihood": nn.Identity()}, "likelihood is Identity"),
        ({"refine": 1, "regulariser": abs}, "an object with the method proximal"),
        ({"refine": 1, "regulariser": Calm}, "an object with the method proximal"),
        ({"refine": 1, "on_sweep": 3}, "on_sweep is of type int"),
        ({"probe_mask": "no"}, "probe_mask is 'no'"),
        ({"refine": 1, "denoise": "no"}, "denoise is 'no'"),
        ({"probe_mask": True, "probe_mask_diameter": -3}, "probe_mask_diameter is -3"),
        ({"probe_mask": True, "probe_mask_diameter": 0}, "probe_mask_diameter is 0"),
        ({"probe_mask": True, "probe_mask_sigma": float("nan")}, "probe_mask_sigma is nan"),
        ({"model": 3}, "type int"),
        ({"model": nn.Identity()}, "own network Identity: it gives Region"),
    ],
)
def test_options_without_a_meaning_are_refused_in_a_line(
    options: dict[str, Any], complaint: str, scan: pt.Scan
) -> None:
    before = switches()
    with pytest.raises(pt.UsageError, match=complaint) as found:
        pt.reconstruct(scan, **options)
    assert "\n" not in str(found.value)
    assert switches() == before


@pytest.mark.parametrize("scan", [None, "scan.npz", np.ones((4, 16, 16))])
def test_what_is_no_scan_is_refused_in_a_line(scan: Any) -> None:
    with pytest.raises(pt.UsageError, match=r"read_scan or Scan\.from_arrays"):
        pt.reconstruct(scan)


def test_files_that_cannot_be_are_refused(result: pt.Reconstruction, scan_file: Path, tmp_path: Path) -> None:
    for name in ("result.jpg", "result"):
        with pytest.raises(pt.UsageError, match=r"\.npz, \.h5, \.tif"):
            result.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
    with pytest.raises(pt.UsageError, match=r"\.npz or \.h5"):
        pt.Reconstruction.from_file("result.tif")
    (tmp_path / "torn.h5").write_bytes(b"torn")
    np.save(tmp_path / "array", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    for path in (scan_file, tmp_path / "torn.h5", tmp_path / "array.npz", tmp_path / "nowhere.npz"):
        with pytest.raises(pt.DataError, match="reconstruction") as found:
            pt.Reconstruction.from_file(path)
        assert "\n" not in str(found.value)


def test_a_simulated_scan_is_the_one_in_the_file(tmp_path: Path) -> None:
    assert run("simulate", "--output", tmp_path / "s.npz", "-N", 32, "--positions", 20, "--quiet") == 0
    made, read = pt.simulate(n=32, positions=20), pt.read_scan(tmp_path / "s.npz")
    for name in ("patterns", "positions", "nominal_positions", "probe", "valid", "obj"):
        assert np.array_equal(getattr(made, name), getattr(read, name)), name
    assert (made.domain, made.nphotons) == (read.domain, read.nphotons)
    with pytest.raises(pt.UsageError):
        pt.simulate(positions=0)


def test_values_are_compared_as_their_files_are(
    scan: pt.Scan, result: pt.Reconstruction, scan_file: Path, tmp_path: Path
) -> None:
    result.save(tmp_path / "result.npz")
    by_value, by_file = pt.evaluate(result, scan), pt.evaluate(tmp_path / "result.npz", scan_file)
    assert by_value["amplitude_psnr_db"] == pytest.approx(by_file["amplitude_psnr_db"], rel=1e-6)
    assert by_value["phase_pearson"] == pytest.approx(by_file["phase_pearson"], rel=1e-6)
    with pytest.raises(pt.DataError, match="no object to compare"):
        pt.evaluate(result, pt.Scan.from_arrays(scan.patterns, scan.positions, domain="amplitude"))


def test_training_is_a_function_of_a_scan(
    scan: pt.Scan, tmp_path: Path, capsys: pytest.CaptureFixture[str], unusual_switches: dict[str, Any]
) -> None:
    short: dict[str, Any] = {"max_epochs": 1, "n_images": 8, "batch_size": 4, "network_width": 8}
    model = pt.train(scan, device="cpu", **short)
    assert switches() == unusual_switches
    kept = pt.train(scan, tmp_path / "model", validation=scan, device="cpu", **short)
    assert capsys.readouterr() == ("", "")
    result = pt.reconstruct(scan, model=model)
    assert result.scores["misfit_R"] < 0.5
    by_path = pt.reconstruct(scan, model=tmp_path / "model")
    assert np.array_equal(pt.reconstruct(scan, model=kept).object, by_path.object)
    with pytest.raises(pt.UsageError, match="epochs"):
        pt.train(scan, epochs=3)
    with pytest.raises(pt.UsageError, match="max_epochs"):
        pt.train(scan, max_epochs=0)


def test_the_package_is_imported_at_once_and_knows_its_names() -> None:
    program = """if True:
        import sys
        import ptycho_torch as pt
        heavy = {"torch", "numpy", "scipy", "pydantic", "matplotlib"} & set(sys.modules)
        assert not heavy, heavy
        assert set(pt.__all__) <= set(dir(pt))
        for name in pt.__all__:
            assert getattr(pt, name) is not None, name
        try:
            pt.nothing
        except AttributeError as error:
            assert "nothing" in str(error)
    """
    subprocess.run([sys.executable, "-c", program], check=True)
    assert Path(pt.__file__).with_name("py.typed").is_file()


@pytest.mark.parametrize("first", ["import ptycho_torch.train", "import ptycho_torch as pt; pt.train"])
def test_a_command_of_the_same_name_does_not_hide_a_function(first: str) -> None:
    program = (
        f"{first}\nimport ptycho_torch.train, ptycho_torch as pt\nassert pt.train.__name__ == 'train_scan', pt.train"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
