"""The door of a network: waves in √photons and transmission outside, real channels of order one inside.

The unit is `Region.uniform_transmission`, the uniform object that predicts the mean photons of the patterns: divided by
it an object is of order one, whatever the flux, the absorption and the power of the probe.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, complex


def to_channels(waves: Iterable[Tensor], unit: float) -> list[Tensor]:
    """Real and imaginary parts of complex waves `[H, W]` [transmission] in turn, of order one."""
    return [part / unit for wave in waves for part in (wave.real, wave.imag)]


def from_channels(channels: Tensor, unit: float) -> Tensor:
    """The complex wave `[H, W]` [transmission] of two real channels `[2, H, W]` of order one."""
    return unit * complex(channels[0], channels[1])
