"""Frames that stay in their file: an array `[n, H, W]` that is read where it's asked for.

A detector writes thousands of frames, often compressed and spread over files. A `FrameStack` opens nothing before it
is indexed, reads the frames asked for and no others, and cuts, bins and turns them on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from ptycho_torch.data.axes import Orientation
from ptycho_torch.data.patterns import chunks

LEAST_FLAT = 0.1
"""Of the median of a flat field: darker pixels are not measured."""


class Frames(Protocol):
    """Some frames of one file, in its order."""

    @property
    def shape(self) -> tuple[int, ...]:
        """n, H, W."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is stored."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames start … stop − 1, `[stop − start, H, W]`."""


@dataclass(frozen=True)
class Window:
    """The part of each frame that is used: N x N binned pixels from (y, x) on; what lies outside the frame is zero."""

    y: int
    x: int
    n: int
    bin: int = 1

    def of(self, frames: np.ndarray, *, outside: Any = 0) -> np.ndarray:
        """This part of frames `[…, H, W]`, `[…, N, N]`; binned values are sums."""
        side = self.n * self.bin
        height, width = frames.shape[-2:]
        y0, x0, y1, x1 = max(self.y, 0), max(self.x, 0), min(self.y + side, height), min(self.x + side, width)
        cut = frames[..., y0:y1, x0:x1]
        if cut.shape[-2:] != (side, side):
            whole = np.full((*frames.shape[:-2], side, side), outside, frames.dtype)
            whole[..., y0 - self.y : y1 - self.y, x0 - self.x : x1 - self.x] = cut
            cut = whole
        if self.bin == 1:
            return cut
        tiles = cut.reshape(*cut.shape[:-2], self.n, self.bin, self.n, self.bin)
        return np.asarray(
            tiles.all((-3, -1)) if cut.dtype == bool else tiles.sum((-3, -1), dtype=self.summed(cut.dtype))
        )

    def summed(self, kind: np.dtype[Any]) -> np.dtype[Any]:
        """The type of binned values."""
        return kind if self.bin == 1 or kind.kind == "f" else np.dtype(np.float32)


@dataclass(frozen=True, eq=False)
class Corrected:
    """What a dark and a flat field make of frames: max((I − dark)/flat, 0), in stored axes; where the flat field is not
    above `LEAST_FLAT` of its median, nothing is measured."""

    dark: np.ndarray | None = None  # [H, W], counts of one frame without light
    flat: np.ndarray | None = None  # [H, W], response to even light

    @cached_property
    def gain(self) -> np.ndarray | None:
        """The flat field over its median, one where nothing is measured, float32 `[H, W]`."""
        if self.flat is None or self.valid is None:
            return None
        return np.where(self.valid, self.flat / np.median(self.flat[self.flat > 0]), 1).astype(np.float32)

    @cached_property
    def valid(self) -> np.ndarray | None:
        """bool `[H, W]`, True = measured; None where all are. A dark pixel that is no number is none."""
        valid = None if self.dark is None else np.isfinite(self.dark)
        if self.flat is not None:
            bright = self.flat > LEAST_FLAT * np.median(self.flat[self.flat > 0])
            valid = bright if valid is None else valid & bright
        return valid

    def of(self, frames: np.ndarray) -> np.ndarray:
        """Frames `[…, H, W]`, float32."""
        counts = frames.astype(np.float32)
        if self.dark is not None:
            counts -= np.nan_to_num(self.dark).astype(np.float32)
        if (gain := self.gain) is not None:
            counts /= gain
        return np.maximum(counts, 0, out=counts)


class FrameStack:
    """Frames of one or more files as one array `[n, N, N]`, read where it is indexed."""

    ndim = 3

    def __init__(
        self,
        parts: Sequence[Frames],
        *,
        rows: np.ndarray | None = None,
        window: Window | None = None,
        turn: Orientation | None = None,
        corrected: Corrected | None = None,
    ) -> None:
        self.parts = tuple(parts)
        self._ends = np.cumsum([part.shape[0] for part in self.parts])
        self._rows = np.arange(int(self._ends[-1])) if rows is None else rows
        self._window, self._turn, self._corrected = window, turn, corrected

    @property
    def frame_shape(self) -> tuple[int, int]:
        """H, W as they are used."""
        if self._window is not None:
            return self._window.n, self._window.n
        height, width = self.parts[0].shape[1:]
        return (width, height) if self._turn is not None and self._turn.swap else (height, width)

    @property
    def shape(self) -> tuple[int, int, int]:
        """n, H, W as they are used."""
        return (len(self._rows), *self.frame_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of what is read."""
        kind = self.parts[0].dtype if self._corrected is None else np.dtype(np.float32)
        return kind if self._window is None else self._window.summed(kind)

    @property
    def size(self) -> int:
        """Values in all."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of all frames, as they are used."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, tuple):
            first, *rest = index
            if isinstance(first, int | np.integer):
                return np.asarray(self[first][tuple(rest)])
            chosen = np.arange(len(self))[first]
            parts = [self[chosen[part]][:, *rest] for part in chunks(len(chosen), int(np.prod(self.frame_shape)))]
            return np.concatenate(parts) if parts else self[chosen][:, *rest]
        if isinstance(index, int | np.integer):
            return self._read(self._rows[index : index + 1 or None])[0]
        return self._read(self._rows[index])

    def chosen(self, index: Any) -> FrameStack:
        """The stack of some of these frames, none read yet."""
        return self._like(rows=self._rows[index])

    def seen(
        self,
        *,
        window: Window | None = None,
        turn: Orientation | None = None,
        corrected: Corrected | None = None,
    ) -> FrameStack:
        """The same frames through a window, in another orientation, or corrected."""
        changes: dict[str, Any] = {"window": window}
        if turn is not None:
            changes["turn"] = turn
        if corrected is not None:
            changes["corrected"] = corrected
        return self._like(**changes)

    def _like(self, **changes: Any) -> FrameStack:
        known: dict[str, Any] = {
            "rows": self._rows,
            "window": self._window,
            "turn": self._turn,
            "corrected": self._corrected,
        }
        return FrameStack(self.parts, **(known | changes))

    def _read(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) and bool((np.diff(rows) == 1).all()):
            part, begin = self._part_of(int(rows[0]))
            if begin + len(rows) <= self.parts[part].shape[0]:  # as a pass over all frames reads: no copy
                return self._through(self.parts[part].read(begin, begin + len(rows)))
        out = np.empty((len(rows), *self.frame_shape), self.dtype)
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        breaks = np.flatnonzero((np.diff(ascending) > 1) | np.isin(ascending[1:], self._ends)) + 1
        for places in np.split(order, breaks):
            if len(places):
                first, last = int(rows[places[0]]), int(rows[places[-1]])
                part, begin = self._part_of(first)
                frames = self.parts[part].read(begin, begin + last - first + 1)
                out[places] = self._through(frames)[rows[places] - first]
        return out

    def _part_of(self, row: int) -> tuple[int, int]:
        """The file that holds a frame, and the frame's number in it."""
        part = int(np.searchsorted(self._ends, row, side="right"))
        return part, row - (int(self._ends[part - 1]) if part else 0)

    def _through(self, frames: np.ndarray) -> np.ndarray:
        frames = frames if self._corrected is None else self._corrected.of(frames)
        turned = frames if self._turn is None else self._turn.of_images(frames)
        return turned if self._window is None else self._window.of(turned)
