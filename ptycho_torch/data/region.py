"""A region of the scan: its patterns in batches, on one canvas of the object."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from ptycho_torch.data.held_out import ValidationSet, held_out_pixels
from ptycho_torch.data.scan import Scan
from ptycho_torch.data.subsets import interleaved_subsets
from ptycho_torch.forward import Forward
from ptycho_torch.physics.patches import place_whole, split_positions
from ptycho_torch.physics.probe import illumination, shift_probe

CACHE_BYTES = 512 * 2**20
CANVAS_STEP = 8
"""Canvas sides are multiples of this, so that images can be halved three times (and of small primes, for the FFT)."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Some patterns with their probes, patches and masks."""

    amplitude: Tensor  # float32 [b, N, N], √counts, zero where not valid
    probe: Tensor  # complex64 [b, mode, N, N], moved by each position's fraction of a pixel
    corners: Tensor  # int64 [b, 2], canvas index of each patch's first pixel
    positions: Tensor  # float64 [b, 2], canvas index that meets index N//2 of the probe, sub-pixel
    index: Tensor  # int64 [b], which of the region's patterns these are
    valid: Tensor  # bool [N, N] or [b, N, N], True = used
    intensities: Tensor  # float32 [b], of the beam in each pattern over its usual one; the probe has their roots
    least: Tensor | None = None  # float32 [b, N, N], √counts that saturated pixels had at least, 0 elsewhere

    def to(self, device: torch.device) -> Batch:
        """These patterns on another device."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in given.items() if value is not None})


class Region:
    """Patterns `indices` of a scan on the canvas that just holds their patches.

    The probe is in √photons, objects on the canvas are transmissions. `uniform_transmission` is the amplitude of the
    uniform object that predicts the mean photons per pattern, √(mean photons / Σ_valid |propagated P|²): the unit of
    networks.
    The patterns of `validation` hold out their pixels, or some of them (see `held_out_pixels`), from all subsets;
    `margin` widens the canvas on every side [px].
    """

    def __init__(
        self,
        scan: Scan,
        indices: np.ndarray,
        probe: Tensor,
        *,
        mean_photons: float | None = None,
        subsets: int = 1,
        batch_size: int | None = None,
        validation: ValidationSet | None = None,
        margin: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        indices = np.asarray(indices)
        held_out, self._every = (np.arange(0), 0) if validation is None else validation
        whole_patterns = held_out if self._every == 1 else np.arange(0)
        kept = np.setdiff1d(np.arange(len(indices)), whole_patterns)
        parts = [kept[part] for part in interleaved_subsets(scan.positions[indices[kept]], subsets)]
        order = np.concatenate([*parts, whole_patterns])
        self.scan, self.indices, self.subsets = scan, indices[order], len(parts)
        self.validation_patterns = len(held_out)
        self._is_held_out = np.isin(order, held_out)
        self.device = torch.device(device)
        self.n = scan.n
        self.valid = torch.as_tensor(scan.valid, device=self.device)
        probe = probe.to(self.device, torch.complex64)
        self.forward = Forward(scan.propagator)
        beam = self.forward.empty_beam(probe)
        photons = scan.mean_photons(self.indices) if mean_photons is None else mean_photons
        self.photons = photons
        self.intensities = torch.ones(len(self.indices), device=self.device)
        if scan.intensities is not None:
            self.intensities = torch.as_tensor(np.minimum(scan.intensities[self.indices], 1), device=self.device)
        seen = self.valid.float()
        if scan.valid_values is not None:
            seen = seen * torch.as_tensor(_share_measured(scan.valid_values, self.indices), device=self.device)
        light = float((beam * seen).sum()) * float(self.intensities.mean())
        self.uniform_transmission = math.sqrt(photons / light)
        self.probe = probe
        whole, self.fraction = split_positions(torch.as_tensor(scan.positions[self.indices]))
        low, high = whole.amin(0) - self.n // 2 - margin, whole.amax(0) - self.n // 2 + self.n + margin
        self.corners = whole - self.n // 2 - low
        self.positions = (self.corners + self.n // 2 + self.fraction).to(self.device)
        self.origin: tuple[int, int] = (int(low[0]), int(low[1]))
        self.extent: tuple[int, int] = (int(high[0] - low[0]), int(high[1] - low[1]))
        height, width = (_padded_side(side) for side in self.extent)
        self.shape: tuple[int, int] = (height, width)
        per_pattern = self.n**2 * (4 + 8 * probe.shape[0])
        batch_size = batch_size or _default_batch_size(self.probe)
        self._places = _batches_of([len(part) for part in parts], batch_size)
        chosen = np.flatnonzero(self._is_held_out)
        chosen = chosen[np.argsort(self.indices[chosen])]  # the same order in every region of these patterns
        self._validation_places = [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
        self._small = len(self) * per_pattern <= CACHE_BYTES
        self._kept: list[list[Batch]] | None = None
        self._kept_validation: list[Batch] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, subset: int | None = None) -> Iterator[Batch]:
        """The patterns, or one subset of them, a batch at a time; those of a small region are kept in memory."""
        if self._small:
            self.loaded()
        for part in range(self.subsets) if subset is None else (subset,):
            yield from self._kept[part] if self._kept is not None else map(self._load, self._places[part])

    def validation_batches(self) -> Iterator[Batch]:
        """The held-out patterns with only their held-out pixels valid; all patterns where none is held out."""
        if not self.validation_patterns:
            yield from self.batches()
        elif self._small:
            self.loaded()
            yield from self._kept_validation or ()
        else:
            yield from (self._load(places, held_out=True) for places in self._validation_places)

    def pick(self, places: np.ndarray) -> Batch:
        """The patterns at some places of this region's order."""
        return self._load(np.asarray(places))

    def loaded(self) -> Region:
        """This region with all its patterns in memory."""
        if self._kept is None:
            self._kept = [[self._load(places) for places in part] for part in self._places]
            self._kept_validation = [self._load(places, held_out=True) for places in self._validation_places]
        return self

    def to(self, device: torch.device) -> Region:
        """This region on another device."""
        if device == self.device:
            return self
        self.device, self.valid, self.probe = device, self.valid.to(device), self.probe.to(device)
        self.positions, self.intensities = self.positions.to(device), self.intensities.to(device)
        if self._kept is not None:
            self._kept = [[batch.to(device) for batch in part] for part in self._kept]
            self._kept_validation = [batch.to(device) for batch in self._kept_validation or ()]
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self._kept is not None:
            state["scan"] = None  # loader processes send patterns, not the whole scan
        return state

    def _load(self, places: np.ndarray, *, held_out: bool = False) -> Batch:
        numbers, index = self.indices[places], torch.from_numpy(places)
        amplitude = torch.from_numpy(self.scan.amplitude(numbers)).to(self.device)
        intensities = self.intensities[index.to(self.device)]
        probe = shift_probe(self.probe, self.fraction[index].to(self.device))
        if self.scan.intensities is not None:
            probe = probe * intensities[:, None, None, None].sqrt()
        valid = self.valid
        if self.scan.valid_values is not None:
            valid = valid & torch.from_numpy(self.scan.valid_values[numbers]).to(self.device)
        if self._is_held_out[places].any():
            pixels = held_out_pixels(numbers, self.n, every=self._every) & self._is_held_out[places, None, None]
            valid = valid & torch.from_numpy(pixels if held_out else ~pixels).to(self.device)
            amplitude *= valid
        least = None if held_out else self.scan.least_amplitude(numbers)
        index = index.to(self.device)
        corners = self.corners[index.cpu()].to(self.device)
        return Batch(
            amplitude,
            probe,
            corners,
            self.positions[index],
            index,
            valid,
            intensities,
            None if least is None else torch.from_numpy(least).to(self.device),
        )

    def uniform_object(self) -> Tensor:
        """The canvas of the uniform object that predicts the mean photons, complex64 `[H, W]`."""
        return torch.full(self.shape, self.uniform_transmission, dtype=torch.complex64, device=self.device)

    def total(self, what: Callable[[Batch], Tensor], subset: int | None = None) -> Tensor:
        """Σ over the batches, of all patterns or of one subset, of a tensor for each."""
        total: Tensor | None = None
        for batch in self.batches(subset):
            part = what(batch)
            total = part if total is None else total + part
        assert total is not None  # a region holds patterns
        return total

    def illumination(self, subset: int | None = None) -> Tensor:
        """Photons that reached each canvas pixel on a flat object of one, Σ_j Σ_m |P_m(r − r_j)|²: float32 `[H, W]`."""
        return self.total(lambda batch: place_whole(illumination(batch.probe), batch.corners, self.shape), subset)


def _share_measured(values: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The share of some patterns in which each pixel was measured, float32 `[N, N]`."""
    total = np.zeros(values.shape[1:])
    for number in indices:
        total += values[number]
    return (total / len(indices)).astype(np.float32)


def _padded_side(least: int) -> int:
    return CANVAS_STEP * int(next_fast_len(-(-least // CANVAS_STEP)))


def _default_batch_size(probe: Tensor) -> int:
    """Patterns whose waves fit into a processor's cache, or fill a GPU."""
    values = 2**17 if probe.device.type == "cpu" else 2**24
    return max(4, values // probe.numel())


def _batches_of(sizes: list[int], batch_size: int) -> list[list[np.ndarray]]:
    """For each subset, the places of its batches in the region's order."""
    ends = np.cumsum(sizes).tolist()
    return [
        [np.arange(start, min(start + batch_size, end)) for start in range(end - size, end, batch_size)]
        for size, end in zip(sizes, ends, strict=True)
    ]


def on_canvas(obj: Tensor, origin: tuple[int, int], region: Region) -> Tensor:
    """An object whose first pixel lies at `origin` of the scan's grid, on the canvas of a region; uniform elsewhere."""
    canvas = region.uniform_object()
    (y, x), (height, width) = (origin[i] - region.origin[i] for i in (0, 1)), obj.shape
    rows = slice(max(y, 0), min(y + height, region.shape[0]))
    columns = slice(max(x, 0), min(x + width, region.shape[1]))
    canvas[rows, columns] = obj[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    return canvas
