"""What a faulty detector or beam costs, and what the survey says of clean scans.

    python benchmarks/detector.py [--clean 100] [--faults 3]

First clean scans over dose, size, overlap, probe, path and object: a finding in one is a false line. Then faults, each
in a few scans: correlation of the object with the truth over that of the clean scan, from the pretrained network and
after twenty sweeps, and what was said.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from common import report
from verdict import correlation, scan_of
from wrong import WRONG, arrays_of, as_scan

import ptycho_torch as pt
from ptycho_torch.data import detector

FAULTS = ("gap", "hot pixels", "cosmic rays", "beam dump", "bright frames", "drift", "saturation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clean", type=int, default=100)
    parser.add_argument("--faults", type=int, default=3)
    args = parser.parse_args()
    lines, seconds = 0, 0.0
    for number in range(200, 200 + args.clean):
        scan, name = scan_of(number)
        beam = np.square(np.abs(np.fft.fftshift(np.fft.fft2(scan.probe, norm="ortho"), axes=(-2, -1)))).sum(0)
        begin = time.process_time()
        lost, said = detector.never_measured(scan.patterns, scan.valid)
        found = detector.surveyed(scan.patterns, scan.positions, scan.valid & ~lost, domain=scan.domain, beam=beam)
        seconds += time.process_time() - begin
        for note in (*said, *found.notes):
            lines += 1
            print(f"false line in {name}: {note}", flush=True)
    report({"false lines": f"{lines} in {args.clean} clean scans", "seconds per survey": seconds / max(1, args.clean)})
    for number in (12, 19, 60, 77, 61)[: args.faults]:
        scan, name = scan_of(number)
        clean = {
            sweeps: correlation(pt.reconstruct(scan, refine=sweeps, diagnose=False), scan) for sweeps in (None, 20)
        }
        for fault in FAULTS:
            changed = WRONG[fault].change(arrays_of(scan), np.random.default_rng(number))
            assert changed is not None
            given = as_scan(changed)
            ratios = []
            for sweeps in (None, 20):
                result = pt.reconstruct(given, refine=sweeps, diagnose=False)
                ratios.append(correlation(result, scan) / clean[sweeps])
            print(
                f"{name}; {fault}: {ratios[0]:.4f}, {ratios[1]:.4f}; {'; '.join(given.notes) or 'nothing said'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
