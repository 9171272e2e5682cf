"""Reconstruction on a pretended GPU: no tensor meets one of the CPU, and the numbers are those of the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run
from pretend_gpu import pretend_gpu
from scans import dense_scan

from ptycho_torch.data.scan import Scan
from ptycho_torch.devices import resolve_device, seconds_on
from ptycho_torch.errors import UsageError
from ptycho_torch.predictors import find_predictor
from ptycho_torch.refinement.initial_probe import search_probe, with_refined_probe
from ptycho_torch.refinement.rounds import RefinedScan, refined_scan, validation_set_of
from ptycho_torch.refinement.schedule import SCHEDULE, ProbeSearch
from ptycho_torch.refinement.state import Unknowns

FREE = Unknowns(probe=True, positions="free", intensities="free")
SHORT = replace(SCHEDULE, search_sweeps=1, near_sweeps=1, fixed_sweeps=1)
"""Rounds of one sweep, where positions move."""


@pytest.fixture(scope="module")
def scan() -> Scan:
    return dense_scan(positions=36, step_px=5.0, photons=1e4)


def refined_on(device: torch.device, scan: Scan, start: str, **options: object) -> RefinedScan:
    """The network and the refinement, as `infer --refine` runs them."""
    predictor, chosen = find_predictor(Path(start), scan), np.arange(len(scan))
    scan = predictor.in_photons(scan)
    predictor.model.to(device)
    validation = validation_set_of(scan, chosen, options["unknowns"])
    region = predictor.region(scan, chosen, validation=validation, device=device)
    with torch.inference_mode():
        obj = predictor.model(region)
        assert obj.device.type == device.type
        return refined_scan(obj, region, predictor, scan, chosen, schedule=SHORT, **options)


@pytest.mark.parametrize(
    "start, options",
    [
        ("pretrained", {"sweeps": 2, "unknowns": Unknowns(), "denoising": True}),
        ("pretrained", {"sweeps": 3, "unknowns": FREE, "modes": 2, "denoising": True}),
        ("flat", {"sweeps": 2, "unknowns": Unknowns(positions="affine"), "likelihood": "amplitude"}),
    ],
    ids=["object", "all", "affine"],
)
def test_a_refinement_on_a_gpu_gives_what_it_gives_on_the_processor(scan, start, options):
    expected = refined_on(torch.device("cpu"), scan, start, **options)
    with pretend_gpu() as gpu:
        found = refined_on(gpu, scan, start, **options)
        assert found.obj.device == gpu
        obj = found.obj.cpu()
    assert (obj - expected.obj).abs().max() < 1e-4 * expected.obj.abs().max()
    assert np.abs(found.scan.positions - expected.scan.positions).max() < 1e-6
    assert np.abs(found.scan.probe - expected.scan.probe).max() < 1e-4 * np.abs(expected.scan.probe).max()
    assert np.abs(found.intensities - expected.intensities).max() < 1e-4


def test_infer_writes_the_same_from_a_gpu(scan_file: Path, tmp_path: Path):
    words = [
        "infer",
        "--model_path",
        "pretrained",
        "--test_data",
        scan_file,
        "--n_images",
        36,
        "--refine",
        1,
        "--quiet",
    ]
    words += ["--log-patch-stats"]
    here, there = tmp_path / "cpu", tmp_path / "gpu"
    assert run(*words, "--accelerator", "cpu", "--output_dir", here, "--debug-dump", here / "dump") == 0
    with pretend_gpu():
        assert run(*words, "--accelerator", "gpu", "--output_dir", there, "--debug-dump", there / "dump") == 0
    with np.load(here / "reconstruction.npz") as expected, np.load(there / "reconstruction.npz") as found:
        assert set(expected) == set(found)
        for name in set(expected) - {"scores", "provenance"}:  # texts
            assert np.allclose(found[name], expected[name], rtol=1e-4, atol=1e-4, equal_nan=True), name


def test_the_gradients_of_a_training_are_the_same_on_a_gpu(scan):
    def gradients(device: torch.device) -> torch.Tensor:
        predictor = find_predictor(Path("pretrained"), scan)
        predictor.model.to(device)
        predictor.model.loss(predictor.region(scan, np.arange(len(scan)), device=device))["loss"].backward()
        return torch.cat([parameter.grad.cpu().flatten() for parameter in predictor.model.network.parameters()])

    expected = gradients(torch.device("cpu"))
    with pretend_gpu() as gpu:
        found = gradients(gpu)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_probe_is_found_and_refined_on_a_gpu(scan):
    search = ProbeSearch(widths=(0.0, 0.3), sweeps=1, refined_sweeps=2)
    found, refined = search_probe(scan, search=search), with_refined_probe(scan, search=search, say=len)
    with pretend_gpu() as gpu:
        found_there = search_probe(scan, search=search, device=gpu)
        refined_there = with_refined_probe(scan, search=search, device=gpu, say=len)
    for here, there in ((found.probe, found_there.probe), (refined.probe, refined_there.probe)):
        assert np.abs(there - here).max() < 1e-4 * np.abs(here).max()


def test_time_on_a_gpu_is_read_when_its_work_is_done(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    devices = [torch.device("cpu"), torch.device("cuda", 7)]
    assert seconds_on(devices[0]) <= seconds_on(devices[1])
    assert waited == devices[1:]


def test_an_apple_gpu_is_refused_in_one_line():
    with pytest.raises(UsageError, match=r"^--accelerator mps: Apple GPUs have no float64.*; use cpu or auto$"):
        resolve_device("mps")


def test_tensors_of_two_devices_do_not_meet():
    with pretend_gpu() as gpu:
        here, there = torch.ones(3), torch.ones(3, device=gpu)
        with pytest.raises(RuntimeError, match="on one device"):
            here + there
        with pytest.raises(RuntimeError, match="on one device"):
            here += there
        with pytest.raises(TypeError, match="host"):
            there.numpy()
        assert (there + here.to(gpu)).cpu().tolist() == [2.0, 2.0, 2.0]
