"""Quality on the unseen half of a scan: network alone, after training on the other half.

    python benchmarks/quality.py simulated|FILE.npz … [--epochs 100] [--keep FOLDER]

`simulated` is a natural-image object under a defocused probe, N = 64, 1,600 positions at 7.6 px, 1e5 photons per
pattern. Printed: CPU seconds of training, misfit R, amplitude and phase PSNR [dB] over the range of the file's object
with one complex factor removed, Pearson of the phase after ramp removal, and of the phase band-passed to 1 … 12 px; the
last three inside the illuminated area.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, command, report, write_halves

from ptycho_torch.evaluation import read_object, shared_region
from ptycho_torch.metrics import compare

ILLUMINATED = 0.3
"""Pixels with less than this fraction of the median illumination are left out of the correlations."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument(
        "--train", nargs="*", default=[], help="further words for the train command, without dashes: key=value"
    )
    parser.add_argument("--keep", type=Path)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = settings.keep or Path(temporary)
        for scan in settings.scans:
            report({scan: unseen_half(scan, folder / Path(scan).stem, settings)})


def unseen_half(scan: str, folder: Path, settings: argparse.Namespace) -> dict[str, Any]:
    """Train on one half, reconstruct the other, score."""
    folder.mkdir(parents=True, exist_ok=True)
    path = DATA / scan
    if scan == "simulated":
        path = folder / "simulated.npz"
        command("simulate", "--output", path)
    train, test = write_halves(path, folder)
    extra = [word for pair in settings.train for word in (f"--{pair.split('=')[0]}", pair.split("=")[1])]
    words = ["--max_epochs", settings.epochs, "--learning-rate", 2e-3, *extra]
    cpu = command("train", "--train_data_file", train, "--output_dir", folder / "model", *words)
    command("infer", "--model_path", folder / "model", "--test_data", test, "--output_dir", folder / "results")
    return {"training_cpu_s": round(cpu), **score(folder / "results", test)}


def score(results: Path, test: Path) -> dict[str, Any]:
    """The figures of one reconstruction against the object in its scan file."""
    ours, reference = read_object(results / "reconstruction.npz"), read_object(test)
    rows, columns = shared_region(ours, reference, inset=8)
    recon, truth = ours.cut(rows, columns), reference.cut(rows, columns)
    y, x = ours.origin
    with np.load(results / "reconstruction.npz") as file:
        weight = file["weight"][rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    lit = weight > ILLUMINATED * np.median(weight)
    plain = compare(recon, truth, scale="complex")
    ramp_free = compare(recon, truth, ramp=True, mask=lit)
    metrics = json.loads((results / "metrics.json").read_text())
    return {
        "misfit_R": metrics["misfit_R"],
        "amplitude_psnr_db": plain["amplitude_psnr_db"],
        "phase_psnr_db": plain["phase_psnr_db"],
        "complex_error": plain["complex_error"],
        "phase_pearson": ramp_free["phase_pearson"],
        "band_passed_phase_pearson": ramp_free["band_passed_phase_pearson"],
        "patterns_per_s": metrics["timing"]["patterns_per_s"],
    }


if __name__ == "__main__":
    main()
