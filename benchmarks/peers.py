"""Time to quality, beside two iterative programs: cdtools (Adam) and pty-chi (LSQML, rPIE).

    pip install 'ptycho-torch[peers]'
    python benchmarks/peers.py [--programs …] [--scans …] [--output peers.json]

Every program gets the same patterns, the same slightly wrong probe (out of focus) and a flat object, may change both,
and runs in a process of its own on one thread. Objects are stored after 1, 2, 3, 4, 6, 8, 12 … epochs; the CPU seconds
count optimisation only, without imports, reading and set-up, and for ptycho_torch they count the pretrained network,
too. Positions are whole pixels, so that programs which round them see the same model. All objects are scored alike:
ramp, shift and scale removed, PSNR over the range of the truth. The target is the oracle less 1 dB in amplitude and in
phase; the oracle is the converged maximum-likelihood object with the true probe. Where a program never comes there, the
time to its own best less 1 dB is given, beside ours to the same quality.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

EPOCHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
SWEEPS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 24, 32, 48)
MARGIN_PX = 16
SCANS: dict[str, dict[str, Any]] = {
    "natural images 1e5": {"photons": 1e5},
    "zone plate 1e5": {"photons": 1e5, "probe": "zone-plate"},
    "dead leaves 1e5": {"photons": 1e5, "kind": "dead-leaves"},
    "natural images 1e9": {"photons": 1e9},
}
Snapshot = tuple[int, float, np.ndarray, tuple[int, int]]
"""Epochs, CPU seconds, object, and where its first pixel lies on the scan's grid."""


# --- the programs, each in its own process ----------------------------------------------------------------------------


def ours(scan: dict[str, np.ndarray]) -> Iterator[Snapshot]:
    """The pretrained network, then sweeps with a free probe; each number of sweeps in a run of its own."""
    import torch

    from ptycho_torch.data.held_out import pick_validation_set
    from ptycho_torch.data.region import Region, on_canvas
    from ptycho_torch.data.scan import Scan
    from ptycho_torch.data.subsets import refinement_subsets
    from ptycho_torch.predictors import find_predictor
    from ptycho_torch.refinement import Unknowns, refine

    read = Scan.from_arrays(scan["amplitude"], scan["positions"], probe=scan["probe"][None], domain="amplitude")
    predictor, indices = find_predictor(Path("pretrained"), read), np.arange(len(read))
    read = predictor.in_photons(read)
    probe = torch.as_tensor(read.probe)

    def run(sweeps: int) -> Snapshot:
        begin = time.process_time()
        with torch.inference_mode():
            validation = pick_validation_set(read.positions, probe)
            first = predictor.region(read, indices, validation=validation).loaded()
            obj = predictor.model(first)
            region = Region(
                read, indices, probe, subsets=refinement_subsets(read, indices, probe), validation=validation
            )
            obj = on_canvas(obj, first.origin, region.loaded())
            found = (
                refine(region, obj, sweeps=sweeps, unknowns=Unknowns(probe=True), start="network").object
                if sweeps
                else obj
            )
        return sweeps, time.process_time() - begin, found.numpy(), region.origin

    run(1)  # to warm up
    yield from map(run, (0, *SWEEPS))


def cdtools(scan: dict[str, np.ndarray], *, loss: str) -> Iterator[Snapshot]:
    """`FancyPtycho` with Adam, without its factors for each frame and its shifts of positions."""
    import torch
    from cdtools.datasets import Ptycho2DDataset
    from cdtools.models import FancyPtycho
    from cdtools.tools.initializers import exit_wave_geometry

    pitch, distance, wavelength = 1e-4, 0.064, 1e-9
    basis = torch.tensor([[0, -pitch], [-pitch, 0], [0, 0]])
    n = scan["amplitude"].shape[-1]
    step = exit_wave_geometry(basis, (n, n), wavelength, distance)
    places = torch.as_tensor(scan["positions"], dtype=torch.float32)
    dataset = Ptycho2DDataset(
        places @ step.T.float(),
        torch.as_tensor(scan["amplitude"] ** 2),
        wavelength=torch.tensor(wavelength),
        detector_geometry={"distance": distance, "basis": basis, "corner": None},
        mask=torch.ones((n, n), dtype=torch.bool),
    )
    model = FancyPtycho.from_dataset(dataset, loss=loss, obj_padding=MARGIN_PX)
    model.probe.data = torch.as_tensor(scan["probe"])[None] / model.probe_norm
    model.obj.data = torch.ones_like(model.obj)
    for fixed in (model.weights, model.translation_offsets, model.background):
        fixed.requires_grad = False
    origin = tuple((model.min_translation.round().int() - n // 2).tolist())
    begin, spent = time.process_time(), 0.0
    losses = model.Adam_optimize(EPOCHS[-1], dataset, lr=0.02, batch_size=10, schedule=True, thread=False)
    for epoch, _ in enumerate(losses, start=1):
        spent += time.process_time() - begin
        if epoch in EPOCHS:
            yield epoch, spent, model.obj.detach().numpy().copy(), (int(origin[0]), int(origin[1]))
        begin = time.process_time()


def ptychi(scan: dict[str, np.ndarray], *, engine: str) -> Iterator[Snapshot]:
    """One of pty-chi's engines, with the batch size at which it is best on such scans."""
    _without_torchvision()
    import torch
    from ptychi import api
    from ptychi.api.task import PtychographyTask

    options = {"lsqml": api.LSQMLOptions, "rpie": api.RPIEOptions}[engine]()
    settings = options.reconstructor_options
    settings.default_device, settings.num_epochs, settings.random_seed = api.Devices.CPU, EPOCHS[-1], 0
    settings.batch_size, settings.displayed_loss_function = {"lsqml": 20, "rpie": 5}[engine], None
    if engine == "rpie":  # its full steps diverge on a small scan
        options.object_options.step_size = options.probe_options.step_size = 0.3
    options.object_options.determine_position_origin_coords_by = api.ObjectPosOriginCoordsMethods.SPECIFIED
    options.object_options.position_origin_coords = np.full(2, -0.5)  # between pixels: nothing is interpolated
    n, places = scan["amplitude"].shape[-1], scan["positions"]
    shape = np.ceil(places.max(0)).astype(int) + n // 2 + MARGIN_PX
    task = PtychographyTask(
        options,
        diffraction_data=torch.as_tensor(scan["amplitude"] ** 2),
        object_data=torch.ones((1, *shape.tolist()), dtype=torch.complex64),
        probe_data=torch.as_tensor(scan["probe"])[None, None],
        probe_position_x_px=torch.as_tensor(places[:, 1], dtype=torch.float32),
        probe_position_y_px=torch.as_tensor(places[:, 0], dtype=torch.float32),
    )
    spent, before = 0.0, 0
    for epoch in EPOCHS:
        begin = time.process_time()
        task.run(epoch - before)
        spent, before = spent + time.process_time() - begin, epoch
        yield epoch, spent, task.get_data_to_cpu("object", as_numpy=True)[0], (0, 0)


def _without_torchvision() -> None:
    """pty-chi imports one blur from torchvision, whose wheel does not load beside a torch without CUDA."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        import types

        for name in ("torchvision", "torchvision.transforms"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["torchvision.transforms"].GaussianBlur = None  # type: ignore[attr-defined]


PROGRAMS: dict[str, Callable[[dict[str, np.ndarray]], Iterator[Snapshot]]] = {
    "ptycho_torch": ours,
    "cdtools Poisson": lambda scan: cdtools(scan, loss="poisson nll"),
    "cdtools amplitude": lambda scan: cdtools(scan, loss="amplitude mse"),
    "pty-chi LSQML": lambda scan: ptychi(scan, engine="lsqml"),
    "pty-chi rPIE": lambda scan: ptychi(scan, engine="rpie"),
}


def work(program: str, source: Path, target: Path) -> None:
    """Run one program and store its objects."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    with np.load(source) as file:
        scan = {name: file[name] for name in file.files}
    arrays: dict[str, Any] = {"epochs": [], "cpu_s": [], "origins": []}
    for number, (epoch, seconds, obj, origin) in enumerate(PROGRAMS[program](scan)):
        arrays["epochs"].append(epoch)
        arrays["cpu_s"].append(seconds)
        arrays["origins"].append(origin)
        arrays[f"object{number}"] = obj.astype(np.complex64)
        np.savez(target, **arrays)


# --- one ruler --------------------------------------------------------------------------------------------------------


def score(obj: np.ndarray, origin: tuple[int, int], truth: np.ndarray, positions: np.ndarray) -> tuple[float, float]:
    """Amplitude and phase PSNR [dB] between the outermost positions, without ramp, shift and scale."""
    from scipy import ndimage
    from skimage.registration import phase_cross_correlation

    from ptycho_torch.metrics import compare, phase_ramp, scored_region

    rows, columns = scored_region(positions, 8)
    edge = MARGIN_PX // 2
    wide: Any = np.s_[rows.start - edge : rows.stop + edge, columns.start - edge : columns.stop + edge]
    height, width = truth.shape
    canvas = np.ones((height, width), np.complex128)
    top, left = (max(0, start) for start in origin)
    part = obj[top - origin[0] :, left - origin[1] :][: height - top, : width - left]
    canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    found, wanted = canvas[wide], truth[wide]
    y, x = np.indices(found.shape)
    for _ in range(2):
        slope = phase_ramp(found, wanted)
        found = found * np.exp(-1j * (slope[0] * y + slope[1] * x))
        shift, _, _ = phase_cross_correlation(wanted, found, upsample_factor=50, normalization=None)
        if np.abs(shift).max() <= edge:
            found = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(found), shift))
    inner = np.s_[edge:-edge, edge:-edge]
    scores = compare(found[inner], wanted[inner], ramp=True, scale="amplitude")
    return float(scores["amplitude_psnr_db"]), float(scores["phase_psnr_db"])


def oracle(scan: Any) -> tuple[float, float]:
    """Scores of the converged maximum-likelihood object with the true probe."""
    import torch

    from ptycho_torch.data.held_out import pick_validation_set
    from ptycho_torch.data.region import Region
    from ptycho_torch.data.subsets import refinement_subsets
    from ptycho_torch.refinement import refine

    indices, probe = np.arange(len(scan)), torch.as_tensor(scan.probe)
    subsets, validation = refinement_subsets(scan, indices, probe), pick_validation_set(scan.positions, probe)
    region = Region(scan, indices, probe, subsets=subsets, validation=validation).loaded()
    with torch.inference_mode():
        first = refine(region, torch.ones(region.shape, dtype=torch.complex64), sweeps=60)
        found = refine(region, first.object, sweeps=200, start="refined")
    return score(found.object.numpy(), region.origin, scan.obj, scan.positions)


def seconds_to(curve: list[dict[str, float]], target: tuple[float, float]) -> float | None:
    """CPU seconds of the first object that reaches the target in amplitude and phase."""
    reached = [
        point["cpu_s"] for point in curve if point["amplitude_db"] >= target[0] and point["phase_db"] >= target[1]
    ]
    return reached[0] if reached else None


# --- the comparison ---------------------------------------------------------------------------------------------------


def make_scan(name: str, positions: int) -> Any:
    """A scan on whole pixels."""
    from ptycho_torch.simulation.unseen import simulated

    return simulated(positions=positions, whole=True, **SCANS[name])


def run(program: str, source: Path, folder: Path, python: str) -> dict[str, np.ndarray] | str:
    """What a program's process has stored, or in a word why there is nothing."""
    target = folder / f"{source.stem}-{program.replace(' ', '-')}.npz"
    words = [python, __file__, "--worker", program, str(source), str(target)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no word"])[-1]
    with np.load(target) as file:
        return {name: file[name] for name in file.files}


def compare_all(programs: list[str], scans: list[str], positions: int, python: str) -> Iterator[tuple[str, dict]]:
    """For each scan the oracle and the curve of each program."""
    from ptycho_torch.simulation.unseen import defocused

    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(scans):
            scan = make_scan(name, positions)
            source = Path(folder) / f"scan{number}.npz"
            wrong = replace(scan, probe=defocused(scan)).probe[0]
            amplitude = scan.amplitude(np.arange(len(scan)))
            np.savez(source, amplitude=amplitude, positions=scan.positions, probe=wrong)
            result: dict[str, Any] = {"oracle": oracle(scan), "curves": {}}
            for program in programs:
                found = run(program, source, Path(folder), python)
                if isinstance(found, str):
                    print(f"{name}, {program}: left out ({found})", flush=True)
                    continue
                result["curves"][program] = curve = []
                for k, (epoch, seconds) in enumerate(zip(found["epochs"], found["cpu_s"], strict=True)):
                    origin = (int(found["origins"][k][0]), int(found["origins"][k][1]))
                    scores = score(found[f"object{k}"], origin, scan.obj, scan.positions)
                    point = {"epochs": int(epoch), "cpu_s": float(seconds)}
                    curve.append(point | {"amplitude_db": scores[0], "phase_db": scores[1]})
            yield name, result


def tell(name: str, result: dict[str, Any]) -> None:
    """A table of one scan."""
    best = result["oracle"]
    print(f"{name}: oracle {best[0]:.1f}/{best[1]:.1f} dB", flush=True)
    mine = result["curves"].get("ptycho_torch", [])
    for program, curve in result["curves"].items():
        top = max(curve, key=lambda point: point["amplitude_db"] + point["phase_db"])
        own = (top["amplitude_db"] - 1, top["phase_db"] - 1)
        text = f"  {program:18s} best {top['amplitude_db']:.1f}/{top['phase_db']:.1f} dB, {top['epochs']} epochs"
        for label, target in (("oracle - 1 dB", (best[0] - 1, best[1] - 1)), ("own best - 1 dB", own)):
            theirs, ours_s = seconds_to(curve, target), seconds_to(mine, target)
            ratio = f" ({theirs / ours_s:.1f} x ours)" if theirs and ours_s else ""
            text += f"; {label}: " + (f"{theirs:.1f} s{ratio}" if theirs else "never")
        print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to quality, beside other programs.")
    parser.add_argument("--programs", nargs="+", default=list(PROGRAMS), choices=list(PROGRAMS))
    parser.add_argument("--scans", nargs="+", default=list(SCANS), choices=list(SCANS))
    parser.add_argument("--positions", type=int, default=400)
    parser.add_argument("--output", type=Path, default=Path("peers.json"))
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the other programs")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker[0], Path(options.worker[1]), Path(options.worker[2]))
        return
    results = {}
    for name, result in compare_all(options.programs, options.scans, options.positions, options.python):
        results[name] = result
        tell(name, result)
        options.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
