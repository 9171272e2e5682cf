"""Verdicts on right and wrong scans: how often each is recognised, and how often the right cause is named first.

`python benchmarks/verdict.py [--scans N] [--first K] [--only NAME,…] [--sweeps S] [--output FILE] [--data DIR]`: N
simulated scans over dose, overlap, size, path, probe and object, and the measured ones of DIR, each right and in the
ways of `wrong.py`. A wrong scan is recognised when its verdict is not good, when it is refused in a line, or when it is
mended: its object is then as near to the truth as that of the right scan (correlation within 1 %). Its cause is named
by the first reason of the verdict, or by a line on what was found and done before. A right scan whose object is poor
(correlation below 0.9: too little light or overlap) deserves no "good"; it's counted apart, and so are the wrong ways
of such a scan, where there is no right result to lose. Prints a line for each run and a table at the end; each run is a
JSON line of FILE.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import DATA
from wrong import WRONG, Wrong, accepted, arrays_of, as_scan

import ptycho_torch as pt
from ptycho_torch.evaluation import LEAST_SIDE_PX, PlacedObject, as_placed_object, shared_region
from ptycho_torch.metrics import INSET_PX, align
from ptycho_torch.simulation.acquire import MARGIN_PX, acquire, object_shape
from ptycho_torch.simulation.scan_paths import SCAN_PATHS
from ptycho_torch.simulation.variety import random_object, random_probe, width_px

DOSES = (1e5, 1e4, 1e6, 1e3, 1e7, 10**4.5, 1e9, 10**5.5, 10**3.5, 1e8, 1e2)
"""Photons per pattern of 64 x 64 pixels; of other sizes as many per detector pixel."""
SIZES = (64, 32, 64, 128, 64, 32, 64)
COUNTS = {32: 144, 64: 144, 128: 100}
SCARCE = {1e2: 8, 1e3: 3}
"""Times as many patterns where each has so few photons."""
OPTICS = ("propagation", "propagation_distance_m", "wavelength_m")
SAME = 0.99
"""Correlation with the truth, over that of the right scan, from which on an object is as good."""
TRUE = 0.9
"""Correlation with the truth from which on the object of a right scan is a right result."""


def scan_of(number: int) -> tuple[pt.Scan, str]:
    """One of the simulated scans, and what it is in words."""
    rng = np.random.default_rng(1000 + number)
    n, dose = SIZES[number % len(SIZES)], DOSES[number % len(DOSES)]
    overlap, path = rng.uniform(0.4, 0.85), str(rng.choice(list(SCAN_PATHS)))
    probe = random_probe(n, rng=rng)[None]
    count, step = COUNTS[n] * SCARCE.get(dose, 1), (1 - overlap) * width_px(probe)
    stops = SCAN_PATHS[path](count, step_px=step, aspect=rng.uniform(0.7, 1.4), rng=rng)
    stops = stops + rng.uniform(-0.15, 0.15, stops.shape) * step
    positions = stops + n // 2 + MARGIN_PX - stops.min(axis=0)
    obj = random_object(object_shape(positions, n), rng=rng)
    made = acquire(obj, probe, positions=positions, photons=dose * (n / 64) ** 2, noise=True, rng=rng)
    lit = made.amplitude.any(axis=(1, 2))
    scan = pt.Scan.from_arrays(made.amplitude[lit], positions[lit], probe=made.probe, domain="amplitude", obj=made.obj)
    return scan, f"scan {number}: N = {n}, {dose:.1e} photons, {overlap:.0%} overlap, {path}"


def correlation(result: pt.Reconstruction, scan: pt.Scan) -> float:
    """|Σ o*·t| / (‖o‖‖t‖) of object and truth (or the file's reference), without phase ramp and mean."""
    ours, truth = as_placed_object(result), as_placed_object(scan)
    spare = int(np.ptp(scan.positions, axis=0).min()) - LEAST_SIDE_PX
    inset = min(INSET_PX, max(0, spare // 2))
    rows, columns = shared_region(replace(ours, positions=scan.positions), truth, inset=inset)
    one, other = ours.cut(rows, columns), PlacedObject(truth.path, truth.object, truth.origin, None).cut(rows, columns)
    one = align(one, other, ramp=True)
    one, other = one - one.mean(), other - other.mean()
    return float(abs(np.vdot(one, other)) / (np.linalg.norm(one) * np.linalg.norm(other)))


def run(scan: pt.Scan, wrong: Wrong | None, *, seed: int, sweeps: int | None, **options: Any) -> dict[str, Any]:
    """The verdict on a scan that went wrong, or on the right one."""
    arrays = arrays_of(scan)
    if wrong is not None:
        changed = wrong.change(arrays, np.random.default_rng(seed))
        if changed is None:
            return {}
        arrays = changed
    begin = time.process_time()
    try:
        given = as_scan(arrays, **{name: getattr(scan, name) for name in OPTICS})
        lines = list[str]()
        result = pt.reconstruct(given, refine=sweeps, say=lines.append, **options)
    except pt.PtychoError as error:
        return {"status": "refused", "cause": str(error)[:200], "lines": [], "cpu_s": time.process_time() - begin}
    assert result.verdict is not None
    found = result.verdict.as_dict()
    causes = [reason.cause for reason in result.verdict.reasons if reason.cause]
    try:
        near = correlation(result, scan)
    except (pt.PtychoError, ValueError):
        near = 0.0
    return found | {
        "reasons": [str(reason) for reason in result.verdict.reasons],
        "cause": causes[0] if causes else "",
        "lines": [*given.notes, *lines],
        "correlation": near,
        "cpu_s": time.process_time() - begin,
    }


def scans(wanted: range, folder: Path) -> Iterator[tuple[str, pt.Scan, dict[str, Any]]]:
    """Simulated and measured scans, and with which options each is reconstructed."""
    for number in wanted:
        scan, name = scan_of(number)
        yield name, scan, {}
    for path in sorted(folder.glob("*.npz")):
        yield path.stem, pt.read_scan(path), {"probe_update": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=22)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--sweeps", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("verdict.jsonl"))
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args()
    only = args.only.split(",") if args.only else ["right", *WRONG]
    rows: list[dict[str, Any]] = []
    for name, scan, options in scans(range(args.first, args.first + args.scans), args.data):
        control = 0.0
        for way in ("right", *(way for way in WRONG if way in only)):
            wrong = WRONG.get(way)
            found = run(scan, wrong, seed=len(rows), sweeps=args.sweeps or None, **options)
            if not found:
                continue
            control = found.get("correlation", 0.0) if way == "right" else control
            mended = way != "right" and found.get("correlation", 0.0) >= SAME * control
            named = wrong is not None and found["cause"] in accepted(way, scan.probe)
            told = (
                wrong is not None and bool(wrong.told) and any(re.search(wrong.told, line) for line in found["lines"])
            )
            judged = {"is_mended": mended, "is_told": told, "is_named": named or told, "control": control}
            rows.append({"scan": name, "way": way, **judged, **found})
            words = f"{found['status']}{', mended' * mended}{', told' * told}; {found['cause']}"
            print(f"{name}; {way}: {words}", flush=True)
            with args.output.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print(in_words(rows))


def in_words(rows: list[dict[str, Any]]) -> str:
    """The table: for each way, runs, how many are good, doubtful, bad, refused, mended, rightly named, and neither."""
    by_way = defaultdict(list)
    for row in rows:
        by_way[row["way"]].append(row)
    lines = [
        "| way | runs | good | doubtful | bad | refused | mended | cause named | neither recognised nor named |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for way, found in by_way.items():
        counts = [sum(row["status"] == status for row in found) for status in ("good", "doubtful", "bad", "refused")]
        unmended = [row for row in found if not row["is_mended"]]
        named = f"{sum(row['is_named'] for row in unmended)} of {len(unmended)}" if way != "right" else ""
        lost = sum(is_missed(row) and not row["is_named"] for row in found) if way != "right" else ""
        mended = len(found) - len(unmended)
        lines.append(f"| {way} | {len(found)} | {' | '.join(map(str, counts))} | {mended} | {named} | {lost} |")
    for is_true, which in ((True, "a true object"), (False, "a poor object")):
        lines += ["", *_counted([row for row in rows if (row["control"] >= TRUE) == is_true], which)]
    return "\n".join(lines)


def is_missed(row: dict[str, Any]) -> bool:
    """Whether a wrong run is good, and its object isn't as near to the truth as that of the right one."""
    return bool(row["status"] == "good" and not row["is_mended"])


def _counted(rows: list[dict[str, Any]], which: str) -> list[str]:
    """Of the scans whose right copy has a true or a poor object: wrong runs that are missed, right ones not good."""
    right, wrong = ([row for row in rows if (row["way"] == "right") == is_right] for is_right in (True, False))
    missed = [row for row in wrong if is_missed(row)]
    told = sum(row["is_named"] for row in missed)
    alarms = [row for row in right if row["status"] != "good"]
    lines = [
        f"scans with {which}: {len(wrong) - len(missed)} of {len(wrong)} wrong runs are recognised, "
        f"a line tells of {told} of the others; {len(alarms)} of {len(right)} right ones are not good"
    ]
    lines += [
        f"{'told only' if row['is_named'] else 'missed'}: {row['scan']}; {row['way']}: {row['correlation']:.3f}, "
        f"right {row['control']:.3f}"
        for row in missed
    ]
    lines += [f"not good: {row['scan']} ({row['correlation']:.3f}): {'; '.join(row['reasons'])}" for row in alarms]
    return lines


if __name__ == "__main__":
    main()
