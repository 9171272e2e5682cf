"""The guard: what inference stitches lies where the object lies, at the height that the object has.

The object is known in closed form, so patches and patterns come from formulas in this file and not from the package.
Object, field and scan are asymmetric and the positions sub-pixel: a mirrored placement, swapped axes, a wrong sign and
a changed normalisation each give another picture, and each is put in place below to show that the guard sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ptycho_torch.data.canvas import Canvas
from ptycho_torch.data.region import Region
from ptycho_torch.data.scan import Scan
from ptycho_torch.model import PtychoModel
from ptycho_torch.networks.unrolled import Unrolled
from ptycho_torch.physics import patches as patches_module
from ptycho_torch.physics import propagation as propagation_module
from ptycho_torch.physics import sweep as sweep_module
from ptycho_torch.physics.optics import sign_board

N = 32
SHAPE = (72, 104)
Stitch = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, tuple[int, int]]]


def object_at(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A smooth transmission without any symmetry, at any real (y, x)."""
    amplitude = (
        0.75 + 0.15 * np.sin(0.13 * y + 0.4) * np.cos(0.09 * x) + 0.08 * np.exp(-((y - 25) ** 2 + (x - 60) ** 2) / 90)
    )
    phase = 0.6 * np.sin(0.07 * x + 0.11 * y) + 0.5 * np.exp(-((y - 40) ** 2 + (x - 35) ** 2) / 60)
    return amplitude * np.exp(1j * phase)


def object_pixels() -> np.ndarray:
    return object_at(*np.indices(SHAPE).astype(float))


def positions() -> np.ndarray:
    """A sub-pixel raster over a field that is wider than high, denser on one side."""
    rng = np.random.default_rng(5)
    y, x = np.meshgrid(np.linspace(18, 53, 8), 18 + 68 * np.linspace(0, 1, 16) ** 1.15, indexing="ij")
    return np.stack([y.ravel(), x.ravel()], 1) + rng.uniform(-0.9, 0.9, (128, 2))


def probe_at(dy: float, dx: float) -> np.ndarray:
    """A defocused, lopsided spot, displaced by (dy, dx)."""
    r = np.arange(N) - N // 2
    y, x = r[:, None] - dy, r[None, :] - dx
    return 20 * np.exp(-(y**2 / 30 + x**2 / 22) + 0.03j * (y**2 + x**2) + 0.1j * y) * (1 + 0.04 * x)


def exact_patches() -> np.ndarray:
    r = np.arange(N) - N // 2
    where = positions()
    return object_at(where[:, 0, None, None] + r[:, None], where[:, 1, None, None] + r[None, :])


def exact_scan() -> Scan:
    """Noise-free amplitudes of that object under that probe, by numpy."""
    obj, where = object_pixels(), positions()
    amplitudes = []
    for y, x in where:
        whole_y, whole_x = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
        cut = obj[whole_y - N // 2 : whole_y + N // 2, whole_x - N // 2 : whole_x + N // 2]
        wave = cut * probe_at(y - whole_y, x - whole_x)
        amplitudes.append(np.abs(np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(wave), norm="ortho"))))
    return Scan.from_arrays(np.float32(amplitudes), where, probe=probe_at(0, 0), domain="amplitude")


def stitch(patches: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The package's placement."""
    tensor = torch.as_tensor(where)
    canvas = Canvas.around(tensor, N)
    for some in np.array_split(np.arange(len(where)), 3):
        canvas = canvas.add(torch.as_tensor(patches[some], dtype=torch.complex64), tensor[some], _weight())
    return canvas.resolve().numpy(), canvas.origin


def _weight() -> torch.Tensor:
    return torch.as_tensor(np.abs(probe_at(0, 0)) ** 2, dtype=torch.float32) + 1


def in_the_scanned_field(picture: np.ndarray, origin: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Picture and object inside the rectangle that the positions span."""
    (y0, x0), (y1, x1) = np.ceil(positions().min(0)).astype(int), np.floor(positions().max(0)).astype(int)
    top, left = y0 - origin[0], x0 - origin[1]
    seen = picture[max(top, 0) : y1 - origin[0], max(left, 0) : x1 - origin[1]]
    truth = object_pixels()[y0:y1, x0:x1]
    assert seen.shape == truth.shape, "the canvas does not cover the scanned field"
    return seen, truth


def assert_lies_on_the_object(picture: np.ndarray, origin: tuple[int, int], *, tolerance: float) -> None:
    """Inside the scanned field the picture is the object: no registration, no scale, no phase taken off."""
    seen, truth = in_the_scanned_field(picture, origin)
    error = np.linalg.norm(seen - truth) / np.linalg.norm(truth)
    assert error < tolerance, f"the stitched picture is {error:.3f} away from the object"


def test_stitched_patches_are_the_object() -> None:
    assert_lies_on_the_object(*stitch(exact_patches(), positions()), tolerance=0.01)


def _mirrored(patches: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    middle = (where.max(0) + where.min(0)) / 2
    picture, _ = stitch(patches, 2 * middle - where)
    return picture, stitch(patches, where)[1]


def _axes_swapped(patches: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    picture, origin = stitch(patches, where[:, ::-1].copy())
    return picture.T, (origin[1], origin[0])


def _fraction_negated(patches: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    return stitch(patches, 2 * np.floor(where + 0.5) - where)


def _one_axis_flipped(patches: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    return stitch(patches[:, ::-1].copy(), where)


def _not_normalised(patches: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    picture, origin = stitch(patches, where)
    return picture * 1.02, origin


def _denominator_without_weight(patches: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    tensor = torch.as_tensor(where)
    empty = Canvas.around(tensor, N)
    canvas = empty.add(torch.as_tensor(patches, dtype=torch.complex64), tensor, _weight())
    count = empty.add(torch.as_tensor(patches, dtype=torch.complex64), tensor, torch.ones(N, N)).weight
    return (canvas.summed / count.clamp_min(1)).numpy(), canvas.origin


def _centre_of_mass_origin(patches: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    picture, _ = stitch(patches, where)
    middle = np.round(where.mean(0)).astype(int)
    return picture, (int(middle[0]) - picture.shape[0] // 2, int(middle[1]) - picture.shape[1] // 2)


@pytest.mark.parametrize(
    "wrong",
    [
        _mirrored,
        _axes_swapped,
        _fraction_negated,
        _one_axis_flipped,
        _not_normalised,
        _denominator_without_weight,
        _centre_of_mass_origin,
    ],
)
def test_the_guard_rejects_a_wrong_placement(wrong: Stitch) -> None:
    with pytest.raises(AssertionError, match="stitched picture|scanned field"):
        assert_lies_on_the_object(*wrong(exact_patches(), positions()), tolerance=0.01)


def reconstruct(scan: Scan) -> tuple[np.ndarray, tuple[int, int]]:
    """What inference does, with a network that is left as it was born: its U-Nets say nothing, its physics works."""
    probe = torch.as_tensor(scan.probe)
    region = Region(scan, np.arange(len(scan)), probe, subsets=4, batch_size=24)
    model = PtychoModel(Unrolled(stages=4, sweeps=6), scale=1.0)
    with torch.inference_mode():
        obj = model(region).numpy()
    seen, truth = in_the_scanned_field(obj, region.origin)
    turn = np.angle(np.vdot(seen, truth))  # the data can't tell a global phase
    return obj * np.exp(1j * turn), region.origin


def test_inference_from_patterns_finds_the_object_in_its_place_and_at_its_height() -> None:
    assert_lies_on_the_object(*reconstruct(exact_scan()), tolerance=0.05)


def _lay_mirrored(patches: torch.Tensor, corners: torch.Tensor, shape: Any) -> torch.Tensor:
    size = torch.tensor(shape) - patches.shape[-1]
    return patches_module.place_whole(patches, size - corners, shape)


def _lay_with_swapped_axes(patches: torch.Tensor, corners: torch.Tensor, shape: Any) -> torch.Tensor:
    return patches_module.place_whole(patches, corners.flip(-1), shape)


def _lay_transposed(patches: torch.Tensor, corners: torch.Tensor, shape: Any) -> torch.Tensor:
    return patches_module.place_whole(patches.mT.contiguous(), corners, shape)


def _lay_one_pixel_off(patches: torch.Tensor, corners: torch.Tensor, shape: Any) -> torch.Tensor:
    return patches_module.place_whole(patches, corners + 1, shape)


@pytest.mark.parametrize("wrong", [_lay_mirrored, _lay_with_swapped_axes, _lay_transposed, _lay_one_pixel_off])
def test_the_guard_rejects_inference_that_lays_patches_wrongly(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "place_whole", wrong)
    with pytest.raises(AssertionError, match="stitched picture|scanned field"):
        assert_lies_on_the_object(*reconstruct(exact_scan()), tolerance=0.05)


def test_the_guard_rejects_positions_with_swapped_axes_or_a_wrong_sign() -> None:
    scan = exact_scan()
    middle = scan.positions.min(0) + scan.positions.max(0)
    for wrong in (scan.positions[:, ::-1].copy(), middle - scan.positions):
        spoiled = Scan.from_arrays(scan.patterns, wrong, probe=scan.probe, domain="amplitude")
        with pytest.raises(AssertionError, match="stitched picture|scanned field"):
            assert_lies_on_the_object(*reconstruct(spoiled), tolerance=0.05)


def test_the_guard_rejects_a_far_field_without_centring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propagation_module, "sign_board", lambda *size, device=None: torch.ones_like(sign_board(*size)))
    with pytest.raises(AssertionError, match="stitched picture|scanned field"):
        assert_lies_on_the_object(*reconstruct(exact_scan()), tolerance=0.05)
