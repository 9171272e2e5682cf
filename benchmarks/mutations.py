"""Breaks lines of the physics on purpose, one at a time, and looks whether a test dies of each.

    python benchmarks/mutations.py [WORD …]        only those whose file or text holds one of the words

Each line is broken in a temporary copy of the tree, where the named tests run until the first one fails. Prints `died`
or `SURVIVED` for each; exit code 1 if one survives, or if the table no longer fits the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Mutation(NamedTuple):
    """`old` stands exactly once in the module; with `new` in its place one of the tests should fail."""

    module: str
    old: str
    new: str
    tests: str


def of(module: str, tests: str, *changes: tuple[str, str]) -> list[Mutation]:
    """Mutations of one module that the same tests should notice."""
    return [Mutation(module, old, new, tests) for old, new in changes]


MUTATIONS = [
    *of(
        "physics/optics.py",
        "optics propagation",
        (
            'return board * torch.fft.fft2(board * wave, norm="ortho")',
            'return torch.fft.fft2(board * wave, norm="ortho")',
        ),
        ('return board * torch.fft.ifft2(board * wave, norm="ortho")', "return board * torch.fft.ifft2(board * wave)"),
        (
            "torch.fft.ifftshift(wave, dim=(-2, -1))\n    return torch.fft.fftshift(torch.fft.fft2(",
            "torch.fft.fftshift(wave, dim=(-2, -1))\n    return torch.fft.fftshift(torch.fft.fft2(",
        ),
        ("wave.imag.square()).sum(-3)", "wave.imag.square()).mean(-3)"),
        ("* distance_m / (n * detector_pixel_m)", "* distance_m / detector_pixel_m"),
    ),
    *of("physics/optics.py", "forward", ("patches.unsqueeze(-3) * probe", "patches.unsqueeze(-3) * probe.conj()")),
    *of(
        "physics/propagation.py",
        "propagation",
        ("angle = -math.pi", "angle = math.pi"),
        ("(y.square() + x.square()) / fresnel_number", "(y.square() + x.square()) * fresnel_number"),
        ("self._kernel(wave).conj())", "self._kernel(wave))"),
        ("pixel_m**2 / (", "pixel_m / ("),
        ("if not is_even_square(probe)", "if is_even_square(probe)"),
        ("return True", "return False"),
    ),
    *of(
        "physics/patches.py",
        "patches",
        ("floor.to(torch.int64) - n // 2", "floor.to(torch.int64) - (n - 1) // 2"),
        ("(1 - y) * wide[:, :-1] + y * wide[:, 1:]", "y * wide[:, :-1] + (1 - y) * wide[:, 1:]"),
        ("pad(x * patches, (1, 0))", "pad(x * patches, (0, 1))"),
        ("torch.floor(positions + 0.5)", "torch.floor(positions)"),
        ("x : x + n] += source[j]", "x : x + n] = source[j]"),
        ("[max(0, -low[i]) for i in (0, 1)]", "[max(0, -low[0]) for i in (0, 1)]"),
    ),
    *of(
        "physics/probe.py",
        "probe",
        ("        -2\n        * torch.pi\n        * fraction", "        2\n        * torch.pi\n        * fraction"),
        ("torch.cos(angle[:, n // 2])", "torch.sin(angle[:, n // 2])"),
        ("_shift_factors(fraction, waves).conj()", "_shift_factors(fraction, waves)"),
        ("vectors.flip(1).conj().mT", "vectors.flip(1).mT"),
        ("(1 - power * missing) ** 0.5", "(1 - power * missing)"),
        ("(power * total).sqrt()", "(power * total)"),
        ("width * n / (2 * radius)", "width * n / radius"),
        ("(profile * line).sum().square()", "(profile * line).sum()"),
        ("(diameter / 2 - radius)", "(diameter - radius)"),
    ),
    *of(
        "physics/sweep.py",
        "sweep",
        (".addcmul_(mode.imag, mode.imag)", ""),
        ("wave.mul_(prepared.conj())", "wave.mul_(prepared)"),
        ("ratio.sub_(1).mul_(valid)", "ratio.sub_(1)"),
        ("else step.mul_(0.5)", "else step"),
        ("(ratio * inverse.square()).mul_(along)", "(ratio * inverse).mul_(along)"),
        ("bend = (ratio * inverse).mul_(along).mul_(valid)", "bend = (ratio * inverse).mul_(along)"),
        (".sub_(wave * bend.unsqueeze(1))", ".add_(wave * bend.unsqueeze(1))"),
        ("SOFTENING + background)", "background)"),
        ("return propagator.prepared(propagator.apply_adjoint(", "return (propagator.apply_adjoint("),
        ("change = ctx.propagator.apply(", "change = FAR_FIELD.apply("),
    ),
    *of(
        "physics/likelihood.py",
        "likelihood",
        ("loss = floor - counts + torch.xlogy", "loss = floor + torch.xlogy"),
        ("(difference * valid).sum((-2, -1))", "difference.sum((-2, -1))"),
        ("right = obj[:-1, 1:] - obj[:-1, :-1]", "right = obj[:-1, 1:] + obj[:-1, :-1]"),
    ),
    *of(
        "physics/phase_gradient.py",
        "phase_gradient",
        ("h_xx * b_y - h_yx * b_x", "h_xx * b_y + h_yx * b_x"),
        ("[moments[:, 1, 0], moments[:, 0, 1]]", "[moments[:, 0, 1], moments[:, 1, 0]]"),
        ("mul_(2 * math.pi / n * cell)", "mul_(2 * math.pi / n)"),
        ("step * search, residual - step * image", "step * search, residual"),
        ("there) - _centroid(here)", "there) + _centroid(here)"),
    ),
    *of(
        "physics/preconditioner.py",
        "preconditioner",
        ("(2 * spot.sum())", "spot.sum()"),
        ("torch.complex(-slow * obj.imag", "torch.complex(slow * obj.imag"),
        ("+ 1 / LARGEST) - 1)", "+ 1 / LARGEST))"),
        ("(obj.conj() * direction).imag", "(obj * direction).imag"),
    ),
    *of(
        "physics/low_pass.py",
        "low_pass",
        ("exp(-2 * (math.pi", "exp(-1 * (math.pi"),
        ("light * slow * details.conj()", "light * slow * details"),
        ("least * along.sum() / power.sum()", "0 * along.sum() / power.sum()"),
    ),
    *of(
        "physics/warp.py",
        "warp_laws",
        ("[:, None] - field[0]", "[:, None] + field[0]"),
        ("padded = (2 * cells[0], 2 * cells[1])", "padded = (cells[0], cells[1])"),
        ("exp(-2 * (math.pi * sigma / cell)", "exp(-1 * (math.pi * sigma / cell)"),
        ("down[:, None, None] * rows + right", "right[:, None, None] * rows + right"),
    ),
    *of(
        "physics/positions.py",
        "position_laws",
        ("(counts - intensity) / (2 * root)", "(counts - intensity) / root"),
        ("columns.append(-(wave", "columns.append((wave"),
        (".argmin(0)", ".argmax(0)"),
        ("design = torch.cat([positions - centre", "design = torch.cat([positions"),
    ),
    *of(
        "forward.py",
        "forward",
        ("intensities[:, None, None, None].sqrt()", "intensities[:, None, None, None]"),
        ("whole - probe.shape[-1] // 2", "whole - (probe.shape[-1] - 1) // 2"),
        ("shift_probe(probe, fraction)", "shift_probe(probe, -fraction)"),
        ("self.propagator.forward(exit_wave(self.patches", "self.propagator.adjoint(exit_wave(self.patches"),
        ("self.propagator.forward(probe)", "self.propagator.adjoint(probe)"),
    ),
    *of(
        "forward.py",
        "sweep",
        ("propagator=self.propagator,\n            background=background", "background=background"),
        ("exit_wave_correction(\n            probe,", "exit_wave_correction(\n            2 * probe,"),
    ),
    *of(
        "physics/object_step.py",
        "object_step",
        ("velocity = momentum * velocity + step * direction", "velocity = velocity + step * direction"),
        ("illumination + FLOOR * illumination.max()", "illumination"),
        ("torch.lerp(low_pass(direction), direction, damping)", "torch.lerp(direction, low_pass(direction), damping)"),
    ),
    *of(
        "physics/preconditioner.py",
        "tilt_shift",
        ("return propagator.tilt_shift_px(probe.shape[-1]) * width", "return width"),
    ),
    *of("physics/propagation.py", "tilt_shift", ("1 / (n * self.fresnel_number)", "1 / self.fresnel_number")),
]


def outcome(mutation: Mutation | None, tests: str) -> str:
    """`passed`, `died` (of a failed test) or `broken` (the tests did not run), with this line broken, or none."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("ptycho_torch", "tests"):
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        if mutation is not None:
            path = Path(folder) / "ptycho_torch" / mutation.module
            path.write_text(path.read_text().replace(mutation.old, mutation.new))
        files = [f"tests/physics/test_{name}.py" for name in tests.split()]
        words = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", *files]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([folder, *sys.path[1:]]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        run = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    return {0: "passed", 1: "died"}.get(run.returncode, "broken")


def main(words: list[str]) -> int:
    chosen = [each for each in MUTATIONS if not words or any(word in f"{each.module} {each.old}" for word in words)]
    misfits = [each for each in chosen if (ROOT / "ptycho_torch" / each.module).read_text().count(each.old) != 1]
    for each in misfits:
        print(f"{each.module}: {each.old!r} does not stand there once: the table no longer fits", flush=True)
    for tests in sorted({each.tests for each in chosen}):
        if (found := outcome(None, tests)) != "passed":
            print(f"{tests}: {found} with nothing broken", flush=True)
            return 1
    left = []
    for each in [each for each in chosen if each not in misfits]:
        start, found = time.monotonic(), outcome(each, each.tests)
        left += [each] if found != "died" else []
        shown = {"passed": "SURVIVED", "broken": "DID NOT RUN"}.get(found, found)
        print(f"{shown:8}  {time.monotonic() - start:4.0f} s  {each.module}: {each.old!r} → {each.new!r}", flush=True)
    print(f"{len(chosen) - len(left) - len(misfits)} of {len(chosen)} broken lines died")
    return 1 if left or misfits else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
