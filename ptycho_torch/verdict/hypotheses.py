"""Hypotheses on what is wrong with a scan, each a change that would cure it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch

from ptycho_torch.data.axes import Orientation
from ptycho_torch.data.geometry import (
    neighbour_distance,
    with_patterns_turned,
    with_positions_turned,
    with_rotation,
)
from ptycho_torch.data.scan import Scan
from ptycho_torch.forward import Forward
from ptycho_torch.physics.probe import probe_radius
from ptycho_torch.units import POSITION_UNITS
from ptycho_torch.verdict.causes import Cause
from ptycho_torch.verdict.trials import Hypothesis, as_given

REFOCUSED = (0.1, -0.1, 0.2, -0.2, 0.3, -0.3, 0.45, -0.45, 0.6, -0.6)
"""Changes of the defocus that are tried: the width of a focused probe after them, over N."""
LAGS = (-1, 1, -2, 2, -3, 3)
OVERLAPS = (0.03, 0.6)
"""The distance of neighbours over the diameter of the probe (four root-mean-square radii) in scans that can be
reconstructed."""
SCALE_STEP = 1.08
"""Ratio of two neighbouring scales of the coarse search."""
ANGLE_STEP = 10
"""Degrees between two angles of the coarse search."""
SAME = 0.98
"""Two probes with this normalised product are the same."""


ORIENTATIONS = tuple(
    Orientation(swap, flips)
    for swap, flips in (
        *((False, flips) for flips in ((False, True), (True, False), (True, True))),
        *((True, flips) for flips in ((False, False), (False, True), (True, False), (True, True))),
    )
)
"""The seven beside the given one; those of fewest operations first."""
TURNS = tuple(cause for cause in Cause if cause.startswith(("flip", "swap", "transpose")))
"""The causes that `orientations` names."""


def orientations(scan: Scan) -> Iterator[Hypothesis]:
    """Positions in another orientation; patterns in another one, where the probe tells the two apart.

    Patterns turned by g are those of probe and object turned by g at positions turned by g. Where the probe is the same
    after g, positions turned by g⁻¹ explain them as well, and have the simpler name.
    """
    for turn in ORIENTATIONS:
        words = ["--swap-axes"] * turn.swap + [f"--flip {turn.flip_name}"] * bool(turn.flip_name)
        name = ", ".join(["swap axes"] * turn.swap + [f"flip {turn.flip_name}"] * bool(turn.flip_name))
        yield Hypothesis(Cause(name), _doing(name), " ".join(words), _turned(with_positions_turned, turn))
    for turn in ORIENTATIONS:
        if _is_same(scan.probe, turn.of_images(scan.probe)):
            continue
        words = ["--transpose-detector"] * turn.swap + [f"--flip-detector {turn.flip_name}"] * bool(turn.flip_name)
        parts = ["transpose detector"] * turn.swap + [f"flip detector {turn.flip_name}"] * bool(turn.flip_name)
        name = ", ".join(parts)
        yield Hypothesis(Cause(name), _doing(name), " ".join(words), _turned(with_patterns_turned, turn))


def lags(scan: Scan, chosen: np.ndarray) -> Iterator[Hypothesis]:
    """Pattern j at position j + k, for each k that leaves every chosen pattern a position."""
    for lag in LAGS:
        if chosen.min() + lag >= 0 and chosen.max() + lag < len(scan):
            yield lag_of(lag)


def lag_of(lag: int, first: int = 0) -> Hypothesis:
    """Pattern j at position j + `lag`, from pattern `first` on."""

    def change(scan: Scan, chosen: np.ndarray) -> Scan:
        places = np.where(chosen >= first, np.clip(chosen + lag, 0, len(scan) - 1), chosen)
        return replace(scan.subset(chosen), positions=scan.positions[places])

    since = f" from pattern {first} on" if first else ""
    what = f"moving the patterns by {lag:+d} position{'s' if abs(lag) > 1 else ''}{since}"
    return Hypothesis(Cause.LAG, what, f"--frame-lag {lag}" + (f"@{first}" if first else ""), change)


def centre(scan: Scan, chosen: np.ndarray) -> Iterator[Hypothesis]:
    """Patterns rolled by the whole pixels that separate the mean pattern from the empty beam; far field only."""
    if scan.propagation != "far":
        return
    y, x = offset_of(scan, chosen)
    if (y, x) != (0, 0):
        what = f"moving the patterns by ({-y}, {-x}) px (y, x)"
        yield Hypothesis(Cause.CENTRE, what, "centred patterns", _with_patterns(_rolled(-y, -x)))


def offset_of(scan: Scan, chosen: np.ndarray) -> tuple[int, int]:
    """The (y, x) by which the mean pattern lies off the empty beam, at the maximum of their cross-correlation."""
    beam = Forward(scan.propagator).empty_beam(torch.as_tensor(scan.probe)).numpy() * scan.valid
    mean = scan.mean_counts(chosen)
    product = np.fft.ifft2(np.fft.fft2(np.sqrt(mean)) * np.fft.fft2(np.sqrt(beam)).conj()).real
    y, x = np.unravel_index(int(product.argmax()), product.shape)
    half = scan.n // 2
    return (int(y) + half) % scan.n - half, (int(x) + half) % scan.n - half


def known_scales(scan: Scan) -> dict[float, str]:
    """Factors on the positions that a unit or a power of ten explains, and what is to do for each."""
    found = {10.0**power: f"positions x 1e{power:+d}" for power in range(-10, 11) if power}
    if scan.pixel_size_m:
        found |= {unit / scan.pixel_size_m: f"--position-unit {name}" for name, unit in POSITION_UNITS.items()}
    plausible = plausible_scales(scan)
    return {factor: way_out for factor, way_out in found.items() if plausible[0] <= factor <= plausible[1]}


def plausible_scales(scan: Scan) -> tuple[float, float]:
    """The factors on the positions between which neighbours overlap as in scans that can be reconstructed."""
    step, width = neighbour_distance(scan.positions), 4 * probe_radius(torch.as_tensor(scan.probe))
    low, high = (share * width / step for share in OVERLAPS) if step > 0 else (1.0, 1.0)
    return low, high


def scale_of(factor: float, way_out: str) -> Hypothesis:
    """Positions times a factor."""
    return Hypothesis(
        Cause.UNITS,
        f"positions times {factor:.4g}",
        way_out,
        _with_positions(lambda positions: positions * factor),
        value=factor,
    )


def scales(scan: Scan) -> Iterator[Hypothesis]:
    """A coarse search over all plausible factors."""
    low, high = plausible_scales(scan)
    count = max(1, math.ceil(math.log(high / low) / math.log(SCALE_STEP)))
    for factor in low * (high / low) ** (np.arange(count + 1) / count):
        yield scale_of(float(factor), f"positions x {factor:.4g}")


def closer_scales(coarse: Hypothesis) -> Iterator[Hypothesis]:
    """The scales around one of the coarse search."""
    for finer in (1.0, 0.98, 1.02, 0.96, 1.04):
        factor = float(coarse.value * finer)
        yield scale_of(factor, f"positions x {factor:.4g}")


def closer_rotations(coarse: Hypothesis) -> Iterator[Hypothesis]:
    """The angles around one of the coarse search."""
    yield from (rotation_of(coarse.value + further) for further in (0, -3, 3, -6, 6))


def refocused(scan: Scan) -> Iterator[Hypothesis]:
    """Probes with another defocus; far field only. See `guess_probe` for the curvature."""
    if scan.propagation != "far":
        return
    for width in REFOCUSED:
        probe = with_defocus(scan.probe, width)

        def change(scan: Scan, chosen: np.ndarray, probe: np.ndarray = probe) -> Scan:
            return replace(as_given(scan, chosen), probe=probe)

        yield Hypothesis(Cause.PROBE, "a probe with another defocus", "--probe-update", change)


def with_defocus(probe: np.ndarray, width: float) -> np.ndarray:
    """F⁻¹[F[P]·exp(i c f²)], c = π·width·N/(2 f_a), f_a² = 2⟨f²⟩ over the light of the far field."""
    n = probe.shape[-1]
    frequency = np.fft.fftfreq(n)
    squared = frequency[:, None] ** 2 + frequency**2
    spectrum = np.fft.fft2(probe)
    light = np.square(np.abs(spectrum)).sum(0)
    curvature = np.pi * width * n / (2 * np.sqrt(2 * (light * squared).sum() / light.sum()))
    return np.fft.ifft2(spectrum * np.exp(1j * curvature * squared)).astype(np.complex64)


def is_its_twin(probe: np.ndarray) -> bool:
    """Whether a probe equals conj(P(−r)): then the twin object explains every pattern at positions flipped in y and x,
    and flips along x and along y can't be told apart."""
    return _is_same(probe, ORIENTATIONS[2].of_images(probe).conj())


def rotation_of(degrees: float) -> Hypothesis:
    """Positions turned by an angle from x towards y."""
    return Hypothesis(
        Cause.ROTATION,
        f"turning the positions by {degrees:g} degrees",
        f"--rotation {degrees:g}deg --position-correction affine",
        lambda scan, chosen: with_rotation(scan.subset(chosen), degrees),
        value=degrees,
    )


def rotations() -> Iterator[Hypothesis]:
    """A coarse search over all angles up to a right one."""
    for angle in range(ANGLE_STEP, 90, ANGLE_STEP):
        yield from (rotation_of(angle), rotation_of(-angle))


def _turned(how: Callable[[Scan, Orientation], Scan], turn: Orientation) -> Callable[[Scan, np.ndarray], Scan]:
    return lambda scan, chosen: how(scan.subset(chosen), turn)


def _with_positions(move: Callable[[np.ndarray], np.ndarray]) -> Callable[[Scan, np.ndarray], Scan]:
    def change(scan: Scan, chosen: np.ndarray) -> Scan:
        part = scan.subset(chosen)
        return replace(part, positions=move(part.positions))

    return change


def _with_patterns(turn: Callable[[np.ndarray], np.ndarray]) -> Callable[[Scan, np.ndarray], Scan]:
    def change(scan: Scan, chosen: np.ndarray) -> Scan:
        part = as_given(scan, chosen)
        values = None if part.valid_values is None else turn(part.valid_values)
        return replace(part, patterns=turn(part.patterns), valid=turn(part.valid), valid_values=values)

    return change


def _rolled(y: int, x: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda images: np.roll(images, (y, x), axis=(-2, -1))


def _is_same(probe: np.ndarray, other: np.ndarray) -> bool:
    """Whether two probes are the same up to a phase and a pixel (an array of even size has no middle)."""
    spectra = np.fft.fft2(probe), np.fft.fft2(other)
    product = np.abs(np.fft.ifft2(spectra[0].conj() * spectra[1]).sum(0)).max()
    return bool(product >= SAME * np.linalg.norm(probe) * np.linalg.norm(other))


def _doing(name: str) -> str:
    words = {"flip": "flipping", "swap": "swapping", "transpose": "transposing", "detector": "the detector"}
    return " ".join(words.get(word, word) for word in name.replace(",", " and").split())


def named(found: Iterable[Hypothesis]) -> dict[str, Hypothesis]:
    """By their subjects."""
    return {hypothesis.what: hypothesis for hypothesis in found}
