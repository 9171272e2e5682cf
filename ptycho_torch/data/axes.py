"""Positions and images along other axes: swapped, flipped, turned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ptycho_torch.errors import UsageError

FLIPS = {"": (False, False), "y": (True, False), "x": (False, True), "xy": (True, True)}
"""(y, x) for each spelling."""


@dataclass(frozen=True)
class Orientation:
    """Axes swapped or not, then flipped along y, x, or both."""

    swap: bool
    flips: tuple[bool, bool]  # y, x

    @classmethod
    def of(cls, *, swap: bool, flip: str) -> Orientation:
        """From the spelling of a flag; UsageError for another word than x, y, xy or nothing."""
        if flip not in FLIPS:
            raise UsageError(f"a flip is {flip!r}: x, y or xy is needed")
        return cls(swap, FLIPS[flip])

    @property
    def flip_name(self) -> str:
        """x, y, xy, or nothing."""
        return next(name for name, flips in FLIPS.items() if flips == self.flips)

    @property
    def matrix(self) -> np.ndarray:
        """What it makes of a difference (y, x) of two positions, `[2, 2]`."""
        axes = np.eye(2)[::-1] if self.swap else np.eye(2)
        return np.where(self.flips, -1.0, 1.0)[:, None] * axes

    def of_positions(self, positions: np.ndarray) -> np.ndarray:
        """Positions `[n, 2]`, flipped about the middle of their range."""
        turned = positions[:, ::-1] if self.swap else positions
        mirrored = turned.min(axis=0) + turned.max(axis=0) - turned
        return np.ascontiguousarray(np.where(self.flips, mirrored, turned))

    def of_images(self, images: np.ndarray) -> np.ndarray:
        """Images `[…, N, N]`, flipped about index N//2."""
        turned = images.swapaxes(-1, -2) if self.swap else images
        axes = tuple(axis for axis, flips in zip((-2, -1), self.flips, strict=True) if flips)
        even = images.shape[-1] % 2 == 0
        return np.roll(np.flip(turned, axes), (1,) * len(axes), axes) if even and axes else np.flip(turned, axes)


def rotation(degrees: float) -> np.ndarray:
    """What turns a place (y, x) about the origin from x towards y, `[2, 2]`."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[cos, sin], [-sin, cos]])


def turned_by(places: np.ndarray, degrees: float) -> np.ndarray:
    """Places `[n, 2]` (y, x), turned about the origin from x towards y."""
    return np.asarray(places @ rotation(degrees).T)
