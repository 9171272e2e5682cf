"""What training and inference cost, as ratios measured in one run on one machine.

    python benchmarks/cost.py [inference] [training] [memory] [start] [frames]

inference  the whole network and placement of a bundle-sized `unrolled` network on 800 simulated patterns (64 × 64), in
           physics sweeps per pattern (one sweep: extract, far field, modulus, back, place, of the same patterns); and
           against the `cnn` network in float32 that lays each patch on the full canvas, as the first programs did
training   patterns per second of one optimisation step against the `cnn` network at one and four patterns per group
memory     peak memory of `infer` on 20,000 patterns and a 1,500² canvas, above the size of the data
start      CPU seconds that `--help` and a wrong flag take
frames     a pass over 2000 frames of 256 × 256 (bitshuffle, LZ4) as a scan reads them, over h5py with hdf5plugin alone
Times are medians with half the distance of the quartiles.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import command, machine, median_and_spread, ratio_and_spread, report
from torch.nn import functional as F

from ptycho_torch.data.formats import hdf5, read_scan
from ptycho_torch.data.grouping import group_neighbours
from ptycho_torch.data.region import Region
from ptycho_torch.data.scan import Scan
from ptycho_torch.data.subsets import network_subsets
from ptycho_torch.devices import use_available_threads
from ptycho_torch.model import PtychoModel
from ptycho_torch.networks.cnn import Cnn
from ptycho_torch.networks.unrolled import Unrolled, gradient_of
from ptycho_torch.simulation import simulate_scan


def simulated(positions: int) -> Scan:
    """A natural-image scan under a defocused probe."""
    scan = simulate_scan(positions=positions)
    return Scan.from_arrays(scan.amplitude, scan.positions, probe=scan.probe, domain="amplitude", obj=scan.obj)


def a_region(scan: Scan, count: int, *, group_size: int = 1, subsets: int | None = None) -> Region:
    """The first patterns of a scan, loaded, in groups of neighbours."""
    probe = torch.as_tensor(scan.probe)
    chosen = group_neighbours(scan.positions[:count], group_size).reshape(-1)
    subsets = network_subsets(scan.positions, probe) if subsets is None else subsets
    batch_size = None if group_size == 1 and subsets > 1 else 16
    return Region(scan, chosen, probe, subsets=subsets, batch_size=batch_size).loaded()


@torch.no_grad()
def inference() -> dict[str, Any]:
    scan = simulated(800)
    region = a_region(scan, 800)
    network = Unrolled().to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    model = PtychoModel(network, scale=1.0)
    obj = torch.ones(region.shape, dtype=torch.complex64)
    ratio = ratio_and_spread(
        lambda: model(region), lambda: [gradient_of(obj, region, part) for part in range(region.subsets)]
    )
    whole, whole_spread = median_and_spread(lambda: model(region))
    cnn, few = Cnn(scan.n).eval(), 32
    other = a_region(scan, few, subsets=1)
    first, first_spread = median_and_spread(lambda: _predict_on_full_canvas(cnn, other, region.shape), times=3)
    ms = 1e3 / len(region)
    return {
        "inference, ms per pattern": [whole * ms, whole_spread * ms],
        "inference in physics sweeps": ratio,
        "cnn with full-canvas placement, ms per pattern": [first * 1e3 / few, first_spread * 1e3 / few],
        "times as fast as that": (first / few) / (whole / len(region)),
    }


def _predict_on_full_canvas(cnn: Cnn, region: Region, shape: tuple[int, int]) -> torch.Tensor:
    canvas = torch.zeros(shape, dtype=torch.complex64)
    for batch in region.batches():
        patches = cnn.patches(batch.amplitude)
        for patch, (y, x) in zip(patches, batch.corners.tolist(), strict=True):
            n = patch.shape[-1]
            canvas = canvas + F.pad(patch, (x, shape[1] - n - x, y, shape[0] - n - y))
    return canvas


def training() -> dict[str, Any]:
    scan = simulated(400)
    ours = _seconds_a_step(Unrolled(), a_region(scan, 64))
    figures: dict[str, Any] = {"unrolled, patterns per second": 64 / ours}
    for group_size in (1, 4):
        seconds = _seconds_a_step(
            Cnn(scan.n, group_size=group_size), a_region(scan, 16, group_size=group_size, subsets=1)
        )
        figures[f"cnn, {group_size} a group, patterns per second"] = 16 / seconds
        figures[f"times as fast as cnn, {group_size} a group"] = (64 / ours) / (16 / seconds)
    return figures


def _seconds_a_step(network: torch.nn.Module, region: Region) -> float:
    if isinstance(network, Unrolled):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = PtychoModel(network, scale=1.0)
    optimizer = torch.optim.AdamW(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        model.loss(region)["loss"].backward()
        optimizer.step()

    return median_and_spread(step, times=5)[0]


def memory() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command("simulate", "--output", folder / "small.npz", "--positions", 400)
        command("train", "--train_data_file", folder / "small.npz", "--output_dir", folder / "model", "--profile", "ci")
        command("simulate", "--output", folder / "large.npz", "--positions", 20000, "--step", 10.1)
        data = read_scan(folder / "large.npz").patterns.nbytes
        words = ["infer", "--model_path", folder / "model", "--test_data", folder / "large.npz", "--output_dir", folder]
        start = time.perf_counter()
        subprocess.run([sys.executable, __file__, "peak", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        peak = int((folder / "peak").read_text()) if (folder / "peak").exists() else 0
        with np.load(folder / "reconstruction.npz") as file:
            canvas = file["object"].shape
    return {"canvas": canvas, "data_MB": data / 1e6, "peak_above_data_MB": (peak - data) / 1e6, "seconds": seconds}


def peak(words: list[str]) -> None:
    """Run a command and write its peak memory [bytes] beside its results."""
    subprocess.run([sys.executable, "-m", "ptycho_torch", *words], check=True)
    bytes_used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    (Path(words[words.index("--output_dir") + 1]) / "peak").write_text(str(bytes_used))


def start() -> dict[str, Any]:
    figures = {}
    for name, words in (("--help", ["train", "--help"]), ("a wrong flag", ["train", "--nonsense"])):
        seconds = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-m", "ptycho_torch", *words], capture_output=True, check=False)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        figures[f"{name}, CPU s"] = float(np.median(seconds))
    return figures


def frames() -> dict[str, Any]:
    import h5py
    import hdf5plugin

    count, at_once = 2000, 32
    rng = np.random.default_rng(0)
    some = rng.poisson(5 * np.exp(-np.square(np.linspace(-4, 4, 256)[:, None] + np.zeros(256)) / 2), (50, 256, 256))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.h5"
        with h5py.File(path, "w") as file:
            filters = hdf5plugin.Bitshuffle(cname="lz4")
            data = file.create_dataset("data", (count, 256, 256), "u2", chunks=(1, 256, 256), **filters)
            for k in range(count):
                data[k] = some[k % len(some)]
            stack = hdf5.frames(file, "data")

        def by_h5py() -> None:
            with h5py.File(path) as file:
                for k in range(0, count, at_once):
                    file["data"][k : k + at_once]

        def by_us() -> None:
            for k in range(0, count, at_once):
                stack[k : k + at_once]

        ratio = ratio_and_spread(by_us, by_h5py)
    return {"time for a pass over all frames, over h5py alone": ratio}


PARTS = {"inference": inference, "training": training, "memory": memory, "start": start, "frames": frames}

if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        peak(sys.argv[2:])
    else:
        use_available_threads()
        report(machine())
        for part in sys.argv[1:] or PARTS:
            report(PARTS[part]())
