"""Whether a change of the code leaves results as they are, bit for bit: eight commands, against a git revision.

    python benchmarks/unchanged.py REVISION [--only NAME,…] [--data DIR] [--keep DIR]

A temporary worktree of the revision makes the scans and the reference results, on one thread of the CPU; the tree that
holds this script, with its uncommitted changes, runs the same commands on the same files. `infer` takes the revision's
bundle in both, so that a difference is reported where it arises. With `--keep`, references stay for the next run, each
under the commit and a digest of its command, its scan and what rounding depends on.

One line a command: `identical`, or what differs. `reconstruction.npz` is compared array by array; `wts.h5.zip` as
bytes and, where these differ, by weights, probe, parameters and provenance. What only the newer tree writes is named
and is no difference, nor are the versions and the command that a bundle notes; what vanishes is one. Exit code 1
when anything differs or fails.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, machine

TREE = Path(__file__).resolve().parents[1]
ARRAYS, BUNDLE = RESULTS = ("reconstruction.npz", "wts.h5.zip")
WRITER = {"ptycho_torch", "torch", "python", "command", "_version"}
"""What provenance and params.dill say of the program, not of the result."""
NAMED = 4
"""Differences of one command that are written out."""

SCANS = {
    "first": "-N 32 --positions 144 --step 5 --seed 1",
    "second": "-N 32 --positions 144 --step 5 --seed 2",
    "displaced": "-N 32 --positions 144 --step 5 --modes 2 --seed 3",
    "dim": "-N 64 --positions 144 --photons 1e3 --seed 4",
    "hundred": "-N 100 --positions 100 --step 8 --photons 1e6 --seed 5",
}
"""Words of `simulate`; all positions lie between pixels."""
DISPLACEMENT_PX = 1.0
"""Standard deviation, in y and in x, of the errors given to the positions of the scan `displaced`."""


@dataclass(frozen=True)
class Command:
    """Words of a command, without its output; SCAN stands for the file of `scan`, BUNDLE for the bundle of `train`."""

    words: str
    scan: str  # a key of SCANS, or a file of the data folder


COMMANDS = {
    "train": Command(
        "train --train_data_file SCAN --max_epochs 2 --gridsize 2 --n_images 16 --batch_size 4 --network_width 8 "
        "--intensity-scale learned",
        "first",
    ),
    "infer": Command("infer --model_path BUNDLE --test_data SCAN", "second"),
    "refine": Command(
        "refine --start flat --test_data SCAN --sweeps 72 --probe-update --modes 2 --position-correction free "
        "--intensity-fluctuation",
        "displaced",
    ),
    "denoise": Command("infer --model_path pretrained --test_data SCAN --refine 12 --denoise", "dim"),
    "siemens_star": Command(
        "infer --model_path pretrained --test_data SCAN --refine 6 --probe-update", "siemens_star_aps_128.npz"
    ),
    "cryo_electron": Command(
        "infer --model_path pretrained --test_data SCAN --n_images 400 --refine 8", "cryo_electron_64.npz"
    ),
    "hxn": Command(
        "refine --start pretrained --test_data SCAN --sweeps 72 --position-correction affine", "hxn_tiny_128.npz"
    ),
    "hundred": Command("infer --model_path pretrained --test_data SCAN --refine 5", "hundred"),
}
"""72 sweeps are just enough for positions to move in rounds."""


# --- running a tree ---------------------------------------------------------------------------------------------------


class FailedError(Exception):
    """A command that ended with an error; its last line."""


class MissingError(Exception):
    """A measured scan that is not there."""


def git(*words: str) -> str:
    """What a git command of this repository prints; ends the script with git's own complaint when it fails."""
    done = subprocess.run(["git", "-C", str(TREE), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: git {words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A checkout of a commit that lasts as long as it is used."""
    with tempfile.TemporaryDirectory(prefix="unchanged-") as folder:
        git("worktree", "add", "--detach", folder, commit)
        try:
            yield Path(folder)
        finally:
            git("worktree", "remove", "--force", folder)


def python(tree: Path, *words: object) -> str:
    """What Python prints on one thread with the package of `tree`; FailedError with the last line of a complaint."""
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as elsewhere:  # Python looks for packages in the current folder first
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            env=environment,
            cwd=elsewhere,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        complaint = done.stderr.strip().splitlines() or ["no message"]
        raise FailedError(f"exit code {done.returncode}: {complaint[-1]}")
    return done.stdout


def check_package(tree: Path) -> None:
    """Ends the script where Python would take the package from elsewhere: a tree compared with itself is identical."""
    found = python(tree, "-c", "import ptycho_torch; print(ptycho_torch.__file__)").strip()
    if not Path(found).resolve().is_relative_to(tree.resolve()):
        sys.exit(f"error: ptycho_torch is imported from {found}, not from {tree}: uninstall the other copy")


def ptycho_torch(tree: Path, words: list[str]) -> None:
    """`ptycho-torch words… --quiet` by the package of `tree`."""
    python(tree, "-m", "ptycho_torch", *words, "--quiet")


# --- references -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """Scans and results of one commit, made where they are missing."""

    store: Path
    data: Path
    tree: Callable[[], Path]  # a checkout of the commit, made when first asked for

    def scan(self, name: str) -> Path:
        """A simulated scan of SCANS, or a measured one of the data folder; MissingError where that is not there."""
        if name not in SCANS:
            if not (self.data / name).is_file():
                raise MissingError(f"no {name} in {self.data}")
            return self.data / name
        words = SCANS[name].split()

        def make(folder: Path) -> None:
            path = folder / f"{name}.npz"
            ptycho_torch(self.tree(), ["simulate", "--output", str(path), *words])
            if name == "displaced":
                displace(path)

        record = {"words": words} | ({"displacement_px": DISPLACEMENT_PX} if name == "displaced" else {})
        return self._kept(f"scan-{name}", record, make) / f"{name}.npz"

    def result(self, name: str) -> Path:
        """Folder with what the commit's own run of a command has written."""
        digest = hashlib.sha256(self.scan(COMMANDS[name].scan).read_bytes()).hexdigest()
        record = {"words": COMMANDS[name].words, "scan": digest}
        if "BUNDLE" in COMMANDS[name].words:
            record["bundle"] = hashlib.sha256((self.result("train") / BUNDLE).read_bytes()).hexdigest()

        def make(folder: Path) -> None:
            self.run(name, self.tree(), folder)
            for path in [path for path in folder.rglob("*") if path.is_file() and path.name not in RESULTS]:
                path.unlink()
            if not any((folder / result).is_file() for result in RESULTS):
                raise FailedError(f"neither {' nor '.join(RESULTS)} is written")

        return self._kept(name, record, make)

    def run(self, name: str, tree: Path, folder: Path) -> None:
        """A command by the package of any tree, with this reference's scan and bundle."""
        command = COMMANDS[name]
        words = [*command.words.split(), "--accelerator", "cpu", "--output_dir", str(folder)]
        files = {"SCAN": self.scan(command.scan)} | (
            {"BUNDLE": self.result("train") / BUNDLE} if "BUNDLE" in words else {}
        )
        ptycho_torch(tree, [str(files.get(word, word)) for word in words])

    def _kept(self, name: str, record: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        key = hashlib.sha256(json.dumps([record, rounding()], sort_keys=True).encode()).hexdigest()[:12]
        folder = self.store / f"{name}-{key}"
        if not folder.is_dir():
            self.store.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.store) as temporary:
                new = Path(temporary) / "new"
                new.mkdir()
                make(new)
                try:
                    new.rename(folder)
                except OSError:
                    if not folder.is_dir():  # else another run was sooner: its files are as good
                        raise
        return folder


@functools.cache
def rounding() -> dict[str, Any]:
    """What the last bits depend on, beside the code."""
    import torch

    kernels = {name: os.environ.get(name) for name in ("MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")}
    return {
        "processor": machine()["processor"],
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        **kernels,
    }


def displace(path: Path) -> None:
    """Give the positions of a scan file normal errors."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    errors = np.random.default_rng(0).normal(scale=DISPLACEMENT_PX, size=(2, len(arrays["ycoords"])))
    np.savez(path, **arrays | {"ycoords": arrays["ycoords"] + errors[0], "xcoords": arrays["xcoords"] + errors[1]})


# --- comparing results ------------------------------------------------------------------------------------------------


@dataclass
class Comparison:
    """What differs, and what is worth naming and is no difference."""

    differences: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def keys(self, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
        """Keys of both; those that vanish differ, those that are new are named."""
        self.differences += [f"{name} {key} vanishes" for key in old if key not in new]
        self.remarks += [f"{name} {key} is new" for key in new if key not in old]
        return [key for key in old if key in new]

    def arrays(self, name: str, old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> None:
        found = (array_difference(old[key], new[key], f"{name} {key}") for key in self.keys(name, old, new))
        self.differences += [text for text in found if text]

    def values(
        self, name: str, old: Mapping[str, Any], new: Mapping[str, Any], *, aside: set[str] | None = None
    ) -> None:
        """Numbers and texts; what differs under the keys `aside` is only named."""
        for key in self.keys(name, old, new):
            if repr(old[key]) != repr(new[key]):
                told = self.remarks if aside and key in aside else self.differences
                told.append(f"{name} {key} {old[key]!r} -> {new[key]!r}")

    def bundles(self, old: Path, new: Path) -> None:
        """Members by their content; what can't be told apart that way differs by its bytes."""
        if old.read_bytes() == new.read_bytes():
            return
        members, others = members_of(old), members_of(new)
        changed = [key for key in self.keys("bundle", members, others) if members[key] != others[key]]
        for member in changed:
            told = len(self.differences) + len(self.remarks)
            name, before, after = Path(member).name, members[member], others[member]
            if name.endswith(".safetensors"):
                self.arrays("weights", tensors(before), tensors(after))
            elif name.endswith(".npy"):
                self.arrays(name, {"array": np.load(io.BytesIO(before))}, {"array": np.load(io.BytesIO(after))})
            elif name.endswith(".dill"):  # flat, and written by the two runs above
                self.values(name, pickle.loads(before), pickle.loads(after), aside=WRITER)
            elif name == "provenance.json":
                self.values(name, flat(json.loads(before)), flat(json.loads(after)), aside=WRITER)
            elif name == "manifest.json":  # sizes and digests differ with what they are of
                self.values(name, *(flat(json.loads(text) | {"members": None}) for text in (before, after)))
                continue
            else:
                self.values(name, flat(json.loads(before)), flat(json.loads(after)))
            if told == len(self.differences) + len(self.remarks):
                self.differences.append(f"{name} has other bytes for the same content")
        if not self.differences and not self.remarks:
            self.differences.append("bundle has other bytes for the same members")

    def __str__(self) -> str:
        texts = [f"differs: {listed(self.differences)}" if self.differences else "identical"]
        return "; ".join([*texts, *([listed(self.remarks)] if self.remarks else [])])


def compare(old: Path, new: Path) -> Comparison:
    """The results in two folders."""
    comparison = Comparison()
    for result in comparison.keys(
        "file", *({name: True for name in RESULTS if (folder / name).is_file()} for folder in (old, new))
    ):
        if result == BUNDLE:
            comparison.bundles(old / result, new / result)
        else:
            with np.load(old / result) as before, np.load(new / result) as after:
                comparison.arrays("array", dict(before), dict(after))
    return comparison


def array_difference(old: np.ndarray, new: np.ndarray, name: str) -> str | None:
    """In what two arrays differ; None where they are the same bits."""
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return f"{name} {old.dtype} {old.shape} -> {new.dtype} {new.shape}"
    if old.tobytes() == new.tobytes():
        return None
    if old.dtype.kind not in "buifc":
        return name
    wide = np.complex128 if old.dtype.kind == "c" else np.float64
    before, after = old.astype(wide), new.astype(wide)
    same = (before == after) | (np.isnan(before) & np.isnan(after))
    with np.errstate(invalid="ignore"):
        largest = np.where(same, 0, np.abs(after - before)).max()
    return f"{name} largest absolute difference {largest:.3g} (values up to {np.abs(before).max():.3g})"


def members_of(bundle: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def tensors(content: bytes) -> dict[str, np.ndarray]:
    from safetensors.torch import load

    return {name: tensor.numpy() for name, tensor in load(content).items()}


def flat(record: Any, path: str = "") -> dict[str, Any]:
    """The values of a JSON object under the keys that lead to them, joined by dots."""
    if not isinstance(record, dict):
        return {path: record}
    return {
        key: value
        for name, inner in record.items()
        for key, value in flat(inner, f"{path}.{name}" if path else name).items()
    }


def listed(texts: list[str]) -> str:
    more = [f"and {len(texts) - NAMED} more"] if len(texts) > NAMED else []
    return "; ".join([*texts[:NAMED], *more])


# --- the command ------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="commit, branch or tag to compare with")
    parser.add_argument("--only", metavar="NAME,…", help=f"some of {', '.join(COMMANDS)}")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with measured scans (PTYCHO_TORCH_DATA)")
    parser.add_argument("--keep", type=Path, help="folder in which the revision's results stay for the next run")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # no worktree is left behind
    chosen = given.only.split(",") if given.only else list(COMMANDS)
    if unknown := [name for name in chosen if name not in COMMANDS]:
        parser.error(f"--only {','.join(unknown)}: names are {', '.join(COMMANDS)}")
    commit = git("rev-parse", "--verify", f"{given.revision}^{{commit}}")
    check_package(TREE)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        @functools.cache
        def checkout() -> Path:
            tree = stack.enter_context(worktree(commit))
            check_package(tree)
            return tree

        store = (given.keep.resolve() if given.keep else scratch / "kept") / commit
        reference = Reference(store, given.data.resolve(), checkout)
        return max([line_of(name, reference, scratch / name) for name in chosen])


def line_of(name: str, reference: Reference, folder: Path) -> int:
    """Run a command by this tree, print how it compares, and return 1 where it differs or fails, else 0."""
    by = "revision"
    try:
        old = reference.result(name)
        by = "this tree"
        reference.run(name, TREE, folder)
    except MissingError as reason:
        print(f"{name}: skipped, {reason}", flush=True)
        return 0
    except FailedError as reason:
        print(f"{name}: fails by {by}, {reason}", flush=True)
        return 1
    comparison = compare(old, folder)
    print(f"{name}: {comparison}", flush=True)
    return int(bool(comparison.differences))


if __name__ == "__main__":
    sys.exit(main())
