"""Do the doctors name the right cause? Wrong scans over dose, overlap, size, probe and object.

    python benchmarks/doctors.py [--draws 2] [--only "flip x,lag"] [--size 64]

Each draw is a scan with a size, dose, overlap, probe, object and noise of its own; each is also given right. A line
shows what was named; at the end stands how often the first name was right, for each way of being wrong.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import numpy as np
from common import report
from wrong import WRONG, accepted, arrays_of, as_scan

from ptycho_torch.data.scan import Scan
from ptycho_torch.errors import DataError
from ptycho_torch.predictors import find_predictor
from ptycho_torch.simulation.as_scan import simulate
from ptycho_torch.verdict.doctors import diagnose

SIZES, DOSES, OVERLAPS = (64, 32, 128), (1e5, 1e3, 1e8, 1e4, 1e6), (0.75, 0.4, 0.85, 0.6)
PROBES, OBJECTS = ("defocus", "zone-plate", "gaussian", "disk"), ("natural", "dead-leaves", "grf", "siemens", "lines")
WIDTHS = {"defocus": 0.55, "zone-plate": 0.55, "disk": 0.5, "gaussian": 0.35}
"""Of the probe over N: overlap = 1 − step / (width · N)."""
POSITIONS = 144


def draw(seed: int, size: int | None) -> tuple[str, Scan]:
    """A right scan, each property from its own cycle."""
    rng = np.random.default_rng(seed)
    n = size or SIZES[seed % len(SIZES)]
    dose, overlap = rng.choice(DOSES), rng.choice(OVERLAPS)
    probe, kind = str(rng.choice(PROBES)), str(rng.choice(OBJECTS))
    step = (1 - overlap) * WIDTHS[probe] * n
    scan = simulate(n=n, positions=POSITIONS, step_px=step, photons=dose, seed=seed, probe_kind=probe, object_kind=kind)
    return f"N {n}, {dose:.0e} photons, overlap {overlap:.0%}, {probe}, {kind}", scan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", default=",".join(["right", *WRONG]))
    parser.add_argument("--size", type=int)
    asked = parser.parse_args()
    named = defaultdict[str, list[bool]](list)
    for seed in range(asked.first, asked.first + asked.draws):
        words, right = draw(seed, asked.size)
        arrays = arrays_of(right)
        for name in asked.only.split(","):
            changed = arrays if name == "right" else WRONG[name].change(arrays, np.random.default_rng(seed))
            if changed is None:
                continue
            try:
                scan = as_scan(changed)
            except DataError as error:
                report({f"{seed} {name}": f"refused: {error}"})
                continue
            scan = find_predictor("flat", scan).in_photons(scan)
            begin = time.process_time()
            reasons = diagnose(scan)
            seconds = time.process_time() - begin
            causes = [reason.cause for reason in reasons]
            right_name = not causes if name == "right" else bool(causes) and causes[0] in accepted(name, right.probe)
            named[name].append(right_name)
            text = "; ".join(map(str, reasons)) or "nothing"
            print(f"{'ok ' if right_name else 'NOT'} {seed} {words}: {name} ({seconds:.1f} s): {text}", flush=True)
    report({name: f"{sum(found)} of {len(found)}" for name, found in named.items()})


if __name__ == "__main__":
    main()
