"""What is left of wrong positions, and how near the object comes to that from the true ones.

`python benchmarks/positions.py [SEED …]`: 400 patterns at 1e5 photons, normal errors of 3 px (root mean square of their
lengths), 90 sweeps; beside each run the error-free one, ten sweeps. Shift, ramp and scale of the objects are removed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from common import command
from scipy.ndimage import gaussian_filter

from ptycho_torch.data.formats.npz import write_scan_npz
from ptycho_torch.data.scan import Scan
from ptycho_torch.evaluation import PlacedObject, shared_region
from ptycho_torch.metrics import INSET_PX, compare
from ptycho_torch.simulation import acquire
from ptycho_torch.simulation.unseen import simulated

ERRORS_PX, SWEEPS, FEW = 3.0, 90, 10
SCANS = {"details in every pixel": 0.0, "band-limited": 0.8}
"""Blur of the object [px]."""


def scan_of(blur: float) -> Scan:
    """The scan of the benchmark, of its object or of a blurred one."""
    scan = simulated()
    if not blur:
        return scan
    assert scan.obj is not None and scan.nphotons is not None
    obj = (gaussian_filter(scan.obj.real, blur) + 1j * gaussian_filter(scan.obj.imag, blur)).astype(np.complex64)
    rng = np.random.default_rng(7)
    made = acquire(obj, scan.probe, positions=scan.positions, photons=scan.nphotons, noise=True, rng=rng)
    return Scan.from_arrays(
        made.amplitude, scan.positions, probe=made.probe, domain="amplitude", obj=obj, nphotons=scan.nphotons
    )


def refined(scan: Scan, folder: Path, positions: np.ndarray, *words: object) -> tuple[np.ndarray, float, float, float]:
    """Errors of positions `[n, 2]`, PSNR of amplitude and phase, CPU seconds, of a command as users type it."""
    assert scan.obj is not None
    path = folder / "scan.npz"
    arrays = {
        "diff3d": scan.patterns,
        "ycoords": positions[:, 0],
        "xcoords": positions[:, 1],
        "probeGuess": scan.probe[0],
    }
    write_scan_npz(path, arrays)
    seconds = command("refine", "--test_data", path, "--output_dir", folder / "out", "--accelerator", "cpu", *words)
    with np.load(folder / "out" / "reconstruction.npz") as file:
        obj, origin, found = file["object"], tuple(file["origin"].tolist()), file["positions"]
        errors = found - scan.positions[file["pattern_indices"]]
    frequencies = [np.fft.fftfreq(side) for side in obj.shape]
    turn = frequencies[0][:, None] * errors[:, 0].mean() + frequencies[1] * errors[:, 1].mean()
    obj = np.fft.ifft2(np.fft.fft2(obj) * np.exp(2j * np.pi * turn)).astype(np.complex64)
    ours = PlacedObject(path, obj, origin, scan.positions)
    rectangle = shared_region(ours, PlacedObject(scan.source, scan.obj, (0, 0), scan.positions), inset=INSET_PX)
    truth = PlacedObject(scan.source, scan.obj, (0, 0), None).cut(*rectangle)
    scores = compare(ours.cut(*rectangle), truth, ramp=True, scale="amplitude")
    return errors - errors.mean(0), scores["amplitude_psnr_db"], scores["phase_psnr_db"], seconds


def rms(errors: np.ndarray) -> float:
    return float(np.sqrt(np.square(errors).sum(1).mean()))


def main(seeds: list[int]) -> None:
    for name, blur in SCANS.items():
        scan = scan_of(blur)
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            _, amplitude, phase, seconds = refined(
                scan, folder, scan.positions, "--start", "pretrained", "--sweeps", FEW
            )
            print(f"{name}, right positions: {amplitude:.1f} / {phase:.1f} dB, {seconds:.0f} CPU s", flush=True)
            for seed in seeds:
                errors = np.random.default_rng(seed).normal(size=scan.positions.shape)
                errors -= errors.mean(0)
                errors *= ERRORS_PX / rms(errors)
                for start in ("pretrained", "flat"):
                    words = ("--start", start, "--sweeps", SWEEPS, "--position-correction", "free")
                    left, amplitude, phase, seconds = refined(scan, folder, scan.positions + errors, *words)
                    print(
                        f"{name}, seed {seed}, {start}: {rms(errors):.1f} -> {rms(left):.3f} px, "
                        f"{amplitude:.1f} / {phase:.1f} dB, {seconds:.0f} CPU s",
                        flush=True,
                    )


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [1, 2, 3, 4, 5, 6])
