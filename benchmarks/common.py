"""What the benchmarks share: commands as users type them, scans cut in halves, figures with their spread."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(os.environ.get("PTYCHO_TORCH_DATA", "data"))
"""Folder with real scans; benchmarks that need one are skipped without it."""


def command(*words: object, quiet: bool = True) -> float:
    """Run `ptycho-torch words…` and return the CPU seconds that it took; stops the benchmark when it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    text = [sys.executable, "-m", "ptycho_torch", *map(str, words), *(["--quiet"] if quiet else [])]
    subprocess.run(text, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_halves(scan: Path, folder: Path) -> tuple[Path, Path]:
    """Two scan files with the patterns of lower and of higher y: to train on one and to test on the unseen other."""
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(scan) as file:
        arrays = {key: file[key] for key in file.files}
    lower = arrays["ycoords"] < np.median(arrays["ycoords"])
    paths = []
    for name, chosen in (("train", lower), ("test", ~lower)):
        part = {
            key: value[chosen] if value.ndim and len(value) == len(lower) and key != "probeGuess" else value
            for key, value in arrays.items()
        }
        np.savez(folder / f"{scan.stem}_{name}.npz", **part)
        paths.append(folder / f"{scan.stem}_{name}.npz")
    return paths[0], paths[1]


def median_and_spread(run: Callable[[], Any], *, times: int = 7) -> tuple[float, float]:
    """Median wall seconds of a call and half the distance of its quartiles, after one call to warm up."""
    run()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    low, middle, high = statistics.quantiles(seconds, n=4)
    return middle, (high - low) / 2


def ratio_and_spread(run: Callable[[], Any], other: Callable[[], Any], *, times: int = 15) -> tuple[float, float]:
    """How many times as long one call takes as another, measured in turns, as a shared machine asks for."""
    run(), other()
    ratios = []
    for _ in range(times):
        marks = [time.perf_counter()]
        for each in (run, other):
            each()
            marks.append(time.perf_counter())
        ratios.append((marks[1] - marks[0]) / (marks[2] - marks[1]))
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, (high - low) / 2


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def report(figures: dict[str, Any]) -> None:
    """Print figures as JSON, a line each."""
    for name, value in figures.items():
        print(f"{name}: {json.dumps(value)}", flush=True)
