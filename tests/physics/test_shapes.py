"""The signatures of the physics say every shape, and `--check-shapes` holds calls to them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import ptycho_torch
from ptycho_torch.forward import Exposure, Forward
from ptycho_torch.physics import optics, patches, sweep
from ptycho_torch.physics.propagation import FAR_FIELD

PACKAGE = Path(ptycho_torch.__file__).parent
SIGNED = [*sorted((PACKAGE / "physics").glob("*.py")), PACKAGE / "forward.py"]
SHAPELESS = {"shifts"}
"""Parameters that are lists to which something is added."""


def bare_tensors(tree: ast.Module) -> list[str]:
    """Annotations of public functions and fields that say Tensor without a shape."""
    found = []
    for node in tree.body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        if isinstance(node, ast.ClassDef) and node.name.startswith("_"):
            continue
        for member in members:
            if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                arguments = [*member.args.args, *member.args.kwonlyargs]
                hints = {each.arg: each.annotation for each in arguments if each.arg not in SHAPELESS}
                hints |= {"return": member.returns}
            elif isinstance(member, ast.AnnAssign):
                hints = {ast.unparse(member.target): member.annotation}
            else:
                continue
            for name, hint in hints.items():
                if hint is not None and any(_is_bare(part, hint) for part in ast.walk(hint)):
                    found.append(f"{getattr(member, 'name', '')}: {name}")
    return found


def _is_bare(part: ast.AST, hint: ast.expr) -> bool:
    inside = {
        id(each)
        for whole in ast.walk(hint)
        if isinstance(whole, ast.Subscript) and isinstance(whole.slice, ast.Tuple)
        for each in whole.slice.elts
        if isinstance(whole.value, ast.Name) and whole.value.id in {"Bool", "Complex", "Float", "Inexact", "Int64"}
    }
    return isinstance(part, ast.Name) and part.id == "Tensor" and id(part) not in inside


@pytest.mark.parametrize("path", SIGNED, ids=lambda path: path.stem)
def test_every_tensor_in_a_public_signature_has_a_shape(path: Path) -> None:
    assert bare_tensors(ast.parse(path.read_text())) == []


def test_a_tensor_without_a_shape_is_found() -> None:
    source = (
        "def f(a: Tensor, b: Float[Tensor, 'n']) -> tuple[Tensor, int]: ...\nclass C:\n    d: Tensor | None = None\n"
    )
    assert bare_tensors(ast.parse(source)) == ["f: a", "f: return", ": d"]


@pytest.fixture
def checked(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--check-shapes"):
        pytest.skip("shapes are checked with --check-shapes")


wave, real = torch.ones(2, 8, 8, dtype=torch.complex64), torch.ones(2, 8, 8)
corners, valid = torch.zeros(2, 2, dtype=torch.int64), torch.ones(8, 8, dtype=torch.bool)
obj = torch.ones(16, 16, dtype=torch.complex64)
WRONG = {
    "probe of another size": lambda: optics.exit_wave(wave, torch.ones(1, 9, 9, dtype=torch.complex64)),
    "real wave": lambda: optics.far_field(real),
    "positions of three coordinates": lambda: patches.split_positions(torch.zeros(4, 3)),
    "float corners": lambda: patches.extract_whole(obj, corners.float(), 8),
    "amplitudes of another number": lambda: sweep.likelihood_gradient(obj, wave[:, None], corners, real[:1], valid),
    "mask of numbers": lambda: sweep.exit_wave_correction(wave[:, None], wave, real, valid.float()),
    "probe without modes": lambda: Exposure.of(wave[0], torch.zeros(2, 2)),
    "intensities of another number": lambda: Exposure.of(wave, torch.zeros(2, 2), intensities=torch.ones(3)),
    "real object": lambda: Forward().counts(real[0], Exposure(wave[:, None], corners)),
    "a line for a wave": lambda: FAR_FIELD.forward(wave[0, 0]),
    "a function for a propagator": lambda: sweep.likelihood_gradient(
        obj, wave[:, None], corners, real, valid, propagator=optics.far_field
    ),
}


@pytest.mark.usefixtures("checked")
@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_shape_is_refused(call) -> None:
    with pytest.raises(Exception, match="type") as caught:
        call()
    assert type(caught.value).__module__.startswith(("jaxtyping", "beartype")), caught.value
