"""Only the physics and the forward model propagate waves: nothing else predicts counts on its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ptycho_torch

PACKAGE = Path(ptycho_torch.__file__).parent
PROPAGATE = {"far_field", "inverse_far_field", "fft2", "ifft2", "fftn", "ifftn", "exit_wave"}
OF_A_PROPAGATOR = {"forward", "adjoint", "apply", "apply_adjoint"}
ALLOWED = {
    ("metrics.py", "fft2"): "registers two images, and their Fourier ring correlation: images, not waves",
    ("simulation/probes.py", "fft2"): "makes probes: defocus of an aperture",
    ("simulation/probes.py", "ifft2"): "makes probes: from an aperture or from speckles to the object",
    ("simulation/variety.py", "fft2"): "makes probes: aberrations",
    ("simulation/variety.py", "ifft2"): "makes probes: aberrations",
    ("simulation/unseen.py", "fft2"): "makes probes: a defocus that a network has not seen",
    ("data/formats/source.py", "ifft2"): "makes probes: a round aperture, with its defocus",
    ("verdict/hypotheses.py", "fft2"): "makes probes: another defocus, and compares probes",
    ("verdict/hypotheses.py", "ifft2"): "makes probes: another defocus, and compares probes",
    ("simulation/unseen.py", "ifft2"): "makes probes: a defocus that a network has not seen",
}
"""(file, function): why it transforms something that is no prediction of counts."""


def propagations(source: str) -> set[str]:
    """The functions by which this source propagates waves."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names} & PROPAGATE
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            if called in PROPAGATE or (called in OF_A_PROPAGATOR and owner.lower().endswith(("propagator", "_field"))):
                found.add(called)
    return found


def elsewhere() -> dict[tuple[str, str], str]:
    """(file, function) of every propagation outside the physics and the forward model."""
    names = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
    return {
        (name, function): name
        for name, path in names.items()
        if name != "forward.py" and not name.startswith("physics/")
        for function in propagations(path.read_text())
    }


def test_nothing_else_predicts_counts() -> None:
    strangers = sorted(set(elsewhere()) - set(ALLOWED))
    assert not strangers, f"{strangers}: ask ptycho_torch.forward, or say in ALLOWED why this predicts no counts"


def test_what_is_allowed_is_still_there() -> None:
    assert set(ALLOWED) <= set(elsewhere())


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("waves = torch.fft.fft2(probe * obj)", {"fft2"}),
        ("from ptycho_torch.physics.optics import far_field as f", {"far_field"}),
        ("counts = abs(region.forward.propagator.forward(wave)) ** 2", {"forward"}),
        ("wave = FAR_FIELD.adjoint(wave)", {"adjoint"}),
        ("counts = region.forward.counts(obj, batch)", set()),
        ("y = network.forward(x)", set()),
    ],
)
def test_a_propagation_is_seen(source: str, found: set[str]) -> None:
    assert propagations(source) == found
