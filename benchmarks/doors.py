"""Files of other programs beside their truth: are the positions exact, the picture right and the right way up?

`python benchmarks/doors.py DIR [--npy ENERGY,DISTANCE,PIXEL]`: every file and folder of DIR that opens as a scan, with
`truth.npz` in DIR (`positions_px_yx`, `object`, `object_pixel_m`; `truth_em.npz` for folders named em and ptyrad).
Prints the largest error of a position up to a common offset, in pixels of the truth, and the correlation of the phases
once shift, ramp and constant are removed, from the pretrained network and at most sixty sweeps; a probe is found from
the patterns where the file has none.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

import ptycho_torch as pt
from ptycho_torch.data.formats import Stated, open_source, read_scan
from ptycho_torch.metrics import align

SWEEPS, INSET_PX = 60, 4
SHIFTS_PX = np.arange(-2, 2.1, 0.5)
ELECTRONS = ("em", "ptyrad")


def candidates(folder: Path) -> Iterator[Path]:
    """Files and folders, each scan once."""
    for path in sorted(folder.rglob("*")):
        if path.name.startswith("truth") or "_data_" in path.name or path.suffix in (".csv", ".txt", ".toml"):
            continue
        yield path


def phase_correlation(
    result: pt.Reconstruction, truth: np.ndarray, offset: np.ndarray, scale: float, places: np.ndarray
) -> float:
    """Of the two objects between the outermost positions, the best of shifts by up to two pixels."""
    low, high = np.ceil(places.min(0) + INSET_PX), np.floor(places.max(0) - INSET_PX)
    y, x = np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij")
    wanted, best = truth[y.astype(int), x.astype(int)], 0.0
    for dy in SHIFTS_PX:
        for dx in SHIFTS_PX:
            at = [(y + dy) * scale + offset[0] - result.origin[0], (x + dx) * scale + offset[1] - result.origin[1]]
            ours = map_coordinates(result.object.real, at, order=3) + 1j * map_coordinates(
                result.object.imag, at, order=3
            )
            ours = align(ours, wanted, ramp=True)
            ours = ours * np.exp(-1j * np.angle(np.vdot(wanted, ours)))
            best = max(best, float(np.corrcoef(np.angle(ours).ravel(), np.angle(wanted).ravel())[0, 1]))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--npy", default="8000,2,75e-6", help="energy [eV], distance, detector pixel [m] of NPY stacks")
    args = parser.parse_args()
    energy, distance, pixel = map(float, args.npy.split(","))
    for path in candidates(args.folder):
        name = str(path.relative_to(args.folder))
        is_electron = path.relative_to(args.folder).parts[0] in ELECTRONS
        truth = np.load(args.folder / ("truth_em.npz" if is_electron else "truth.npz"))
        stated = Stated(photon_energy_ev=energy, distance_m=distance, detector_pixel_m=pixel)
        try:
            source = open_source(path)
            scan = read_scan(path, stated=stated if path.suffix == ".npy" else Stated())
        except pt.PtychoError as error:
            print(f"{name}: refused: {str(error).split(': ', 1)[-1]}", flush=True)
            continue
        places = truth["positions_px_yx"]
        if len(places) != len(scan):
            print(f"{name}: {len(scan)} patterns, the truth has {len(places)}", flush=True)
            continue
        true_pixel = float(truth["object_pixel_m"]) if "object_pixel_m" in truth else 1e-10 * truth["object_pixel_A"]
        scale = 1.0 if scan.pixel_size_m is None else float(true_pixel) / scan.pixel_size_m
        offset = (scan.positions - places * scale).mean(0)
        error_px = np.abs(scan.positions - offset - places * scale).max() / scale
        result = pt.reconstruct(scan, refine=SWEEPS, probe_from="patterns" if scan.probe_is_guess else "file")
        likeness = phase_correlation(result, truth["object"], offset, scale, places)
        assert result.verdict is not None
        print(
            f"{name}: {source.form}; positions within {error_px:.1g} px; phase correlation {likeness:.4f}; "
            f"{result.verdict.status}",
            flush=True,
        )


if __name__ == "__main__":
    main()
