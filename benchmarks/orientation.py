"""Is the lie of the positions found? Flips, swaps, lags and rotations at once, and scans that are right.

    python benchmarks/orientation.py [--draws 10] [--truths 4] [--positions 300] [FILE …]

Each draw is a simulated scan with a size, dose (1e4 photons or more), overlap, probe and object of its own; each FILE
is a real one that lies as it should. Their positions are taken apart: swapped or not, mirrored or not, turned by 0, 30,
90 or 180 degrees, and with a lag of −2 to 2 frames. Right means: the class, the lag and the angle within 3 degrees, up
to the twin where no probe excludes it, and up to lags that leave the same steps between the patterns.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import report

from ptycho_torch.data.formats import read_scan
from ptycho_torch.data.geometry import in_pixels
from ptycho_torch.data.scan import Scan
from ptycho_torch.predictors import find_predictor
from ptycho_torch.simulation.as_scan import simulate
from ptycho_torch.verdict.orientation import Found, Lie, find_orientation

SIZES, DOSES, OVERLAPS = (64, 32, 128), (1e4, 1e5, 1e6, 1e8), (0.75, 0.6, 0.85)
PROBES, OBJECTS = ("defocus", "zone-plate", "gaussian", "disk"), ("natural", "dead-leaves", "grf", "siemens", "lines")
WIDTHS = {"defocus": 0.55, "zone-plate": 0.55, "disk": 0.5, "gaussian": 0.35}
ANGLES = (0, 30, 90, 180)
WITHIN = 3.0
"""Degrees."""


def draw(seed: int, positions: int) -> tuple[str, Scan]:
    """A right scan, each property from its own cycle."""
    rng = np.random.default_rng(seed)
    n = SIZES[seed % len(SIZES)]
    dose, overlap = rng.choice(DOSES), rng.choice(OVERLAPS)
    probe, kind = str(rng.choice(PROBES)), str(rng.choice(OBJECTS))
    step = (1 - overlap) * WIDTHS[probe] * n
    scan = simulate(n=n, positions=positions, step_px=step, photons=dose, seed=seed, probe_kind=probe, object_kind=kind)
    return f"N {n}, {dose:.0e} photons, overlap {overlap:.0%}, {probe}, {kind}", scan


def taken_apart(scan: Scan, truth: Lie) -> Scan:
    """The scan whose cure is `truth`: positions M⁻¹·r, those of frame j at j + lag."""
    positions = (scan.positions - scan.positions.mean(0)) @ truth.matrix
    kept = np.arange(abs(truth.lag), len(scan) - abs(truth.lag))
    moved = positions[kept - truth.lag]
    return replace(scan.subset(kept), positions=moved, nominal_positions=moved, obj=None)


def is_right(found: Found, truth: Lie) -> bool:
    apart = found.lie.matrix @ truth.matrix.T
    cos = np.trace(apart) / 2
    same = abs(cos) if found.twin_remains else cos
    is_lag = found.lie.lag == truth.lag or truth.lag in found.lags
    return bool(np.linalg.det(apart) > 0 and is_lag and same > np.cos(np.deg2rad(WITHIN)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--truths", type=int, default=4)
    parser.add_argument("--positions", type=int, default=300)
    asked = parser.parse_args()
    scans = [draw(seed, asked.positions) for seed in range(asked.first, asked.first + asked.draws)]
    scans += [(path.name, in_pixels(read_scan(path))) for path in asked.files]
    right, unchanged, sweeps, seconds = list[bool](), list[bool](), list[float](), list[float]()
    for number, (words, scan) in enumerate(scans):
        rng = np.random.default_rng((asked.first, number))
        truths = [Lie()]
        for _ in range(asked.truths):
            base = Lie(0, bool(rng.integers(2)), str(rng.choice(["", "x", "y", "xy"])))
            angle = int(rng.choice(ANGLES))
            truths.append(replace(base.turned(angle), lag=int(rng.integers(-2, 3))))
        for truth in truths:
            wrong = taken_apart(scan, truth)
            begin = time.process_time()
            found = find_orientation(find_predictor("flat", wrong).in_photons(wrong))
            seconds.append(time.process_time() - begin)
            ok = is_right(found, truth)
            (right if truth != Lie() else unchanged).append(ok if truth != Lie() else not found.is_change)
            sweeps.append(found.sweeps)
            mark = "ok " if ok else "NOT"
            print(f"{mark} {words}: {truth}: {found.text} ({found.sweeps:.0f} sweeps, {seconds[-1]:.1f} s)", flush=True)
    report(
        {
            "found": f"{sum(right)} of {len(right)}",
            "right ones kept": f"{sum(unchanged)} of {len(unchanged)}",
            "sweeps": f"median {np.median(sweeps):.0f}, most {max(sweeps):.0f}",
            "CPU s": f"median {np.median(seconds):.1f}, most {max(seconds):.1f}",
        }
    )


if __name__ == "__main__":
    main()
