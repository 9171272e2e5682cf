"""Devices, threads and determinism."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ptycho_torch.errors import UsageError


def resolve_device(accelerator: str, device: str | None = None) -> torch.device:
    """The device that `--accelerator` (or the older `--device`) names; UsageError where the machine lacks it."""
    wanted = {"cpu": "cpu", "cuda": "gpu", "gpu": "gpu"}.get(device, device) if device else accelerator
    if wanted == "tpu":
        raise UsageError("--accelerator tpu: TPUs are not supported; use cpu, gpu or auto")
    if wanted not in ("auto", "cpu", "gpu", "cuda", "mps"):
        raise UsageError(f"--device {device}: cpu or cuda is needed; or use --accelerator")
    if wanted in ("gpu", "cuda"):
        if not torch.cuda.is_available():
            raise UsageError(f"--accelerator {wanted}: this machine has no usable CUDA GPU; use cpu or auto")
        return torch.device("cuda")
    if wanted == "mps":
        raise UsageError("--accelerator mps: Apple GPUs have no float64, which positions need; use cpu or auto")
    if wanted == "auto" and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def available_bytes() -> float:
    """Main memory that is free for use, by the system's own estimate; infinite where it gives none."""
    try:
        with open("/proc/meminfo") as file:
            return next(1024.0 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return math.inf


@contextmanager
def deterministic(device: torch.device, is_wanted: bool = True) -> Iterator[None]:
    """Inside, equal input gives equal numbers, with a warning where torch can't; afterwards all is as before.

    The same state as `torch.use_deterministic_algorithms(True, warn_only=True)`, which imports torch's compiler (822
    modules, 2 s of CPU time) and fills new memory for code that reads it unwritten; none here does.
    """
    switches: Any = torch.utils.deterministic
    mode, fills = torch.get_deterministic_debug_mode(), switches.fill_uninitialized_memory
    if is_wanted and device.type == "cuda":  # a condition of cuBLAS, read when its first product is computed
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_deterministic_debug_mode("warn" if is_wanted else "default")
    switches.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        switches.fill_uninitialized_memory = fills


def seconds_on(device: torch.device) -> float:
    """A clock [s] to measure work on a device with: it is read when all work that was asked for is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def use_available_threads() -> None:
    """As many threads as the process may run on: containers and schedulers give fewer cores than the machine has.

    OMP_NUM_THREADS may ask for fewer; of a list (`4,2`, one number for each level of nesting) the first counts, and
    what is no number is ignored.
    """
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        available = os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    limit = int(asked) if asked.isascii() and asked.isdecimal() and int(asked) > 0 else available
    torch.set_num_threads(min(available, limit))


@contextmanager
def own_switches(device: torch.device, *, is_deterministic: bool = True) -> Iterator[None]:
    """All available threads and, unless told otherwise, deterministic algorithms; torch as before afterwards.

    Also its default random numbers: what is drawn inside (a fresh network's weights) is not missed outside.
    """
    threads, random = torch.get_num_threads(), torch.random.get_rng_state()
    try:
        with deterministic(device, is_deterministic):
            use_available_threads()
            yield
    finally:
        torch.set_num_threads(threads)
        torch.random.set_rng_state(random)
