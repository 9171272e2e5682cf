"""The intensity scale: the one value that relates network amplitudes of order one to photon counts.

    counts amplitude = s · network amplitude,   physical probe = s · network-unit probe

The network-unit probe has power (N/2)², and so has the mean pattern in network units. s and the mean of |object| are
one gauge: the counts determine only their product. The closed form and the measured form choose ⟨|object|²⟩ = 1; the
learned form starts from either and follows a prior (see `gauge_prior`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_torch.errors import BundleError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

CALIBRATED = (0.8, 400.0)
"""A probe counts as calibrated if its power lies between these multiples of the brightest patterns' photons: below, a
specimen would amplify; above, the brightest part of it would transmit less than a twentieth of the amplitude."""
BRIGHTEST = 0.9
"""The brightest patterns: this quantile, so that a few odd frames don't count."""
ARBITRARY = "measured"
"""How the origin of a scale ends that was taken from the patterns alone: then |object| has an arbitrary unit."""


@dataclass(frozen=True)
class IntensityScale:
    """A fitted scale and where it came from; fitted on the training split only."""

    value: float
    origin: str  # "closed form" | "measured" | "learned, from closed form" | "learned, from measured"
    nphotons: float  # photons per pattern of the closed or measured form
    n_patterns: int  # patterns that it was fitted on
    probe_norm: float  # ‖training probe‖ = √Σ|P|², in the unit of its scan

    def __post_init__(self) -> None:
        for name in ("value", "nphotons", "probe_norm"):
            number = getattr(self, name)
            if not (math.isfinite(number) and number > 0):
                raise BundleError(f"intensity scale: {name} is {number}, a positive number is needed; train again")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> IntensityScale:
        try:
            return cls(
                value=float(record["value"]),
                origin=str(record["origin"]),
                nphotons=float(record["nphotons"]),
                n_patterns=int(record["n_patterns"]),
                probe_norm=float(record["probe_norm"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"intensity scale: the record is damaged ({error!r}); train again") from None

    def in_photons(self, probe: np.ndarray) -> np.ndarray:
        """A probe `[mode, N, N]` in the unit of the training probe, in √photons: times s · (N/2) / ‖training probe‖."""
        return probe * (self.value * (probe.shape[-1] / 2) / self.probe_norm)

    @property
    def is_arbitrary(self) -> bool:
        """Whether |object| is in an arbitrary unit: the probe is not in √photons, and its patterns set the scale."""
        return self.origin.endswith(ARBITRARY)

    def describe(self) -> str:
        return f"{self.value:.6f} ({self.origin})"


def closed_form(nphotons: float, n: int) -> float:
    """s = √nphotons / (N/2): 1e5 photons and N = 64 give 9.882118."""
    if not (math.isfinite(nphotons) and nphotons > 0):
        raise UsageError(f"--nphotons {nphotons}: a positive number of photons per pattern is needed")
    return math.sqrt(nphotons) / (n / 2)


def norm_of(probe: np.ndarray | Tensor) -> float:
    """‖P‖ = √Σ|P|² over all modes, in double precision: a probe may be in any unit."""
    values = probe if isinstance(probe, np.ndarray) else probe.detach().cpu().numpy()
    return float(np.linalg.norm(values.astype(np.complex128)))


def brightest(photons: np.ndarray) -> float:
    """Photons of the brightest of some patterns, the 0.9 quantile q of `photons` `[n]`, less 1.28 √q: photon noise
    alone makes the brightest tenth that much brighter."""
    quantile = float(np.quantile(photons, BRIGHTEST))
    return max(quantile - 1.28 * math.sqrt(quantile), float(np.median(photons)))


def is_calibrated(probe_norm: float, photons: np.ndarray) -> bool:
    """Whether a probe of this norm is plausibly in √photons: whether Σ|P|² lies between 0.8 and 400 times the photons
    of the brightest patterns, `photons` `[n]` being those of all. The mean absorption of a specimen says nothing."""
    low, high = CALIBRATED
    return low * brightest(photons) <= probe_norm**2 <= high * brightest(photons)


def gauge_prior(log_scale: Tensor, *, mean_square: Tensor, calibrated_log_scale: float | None) -> Tensor:
    """The prior on the gauge that the likelihood does not determine, a square of logarithms.

    With a probe in √photons: (ln s − ln s_probe)², s_probe = ‖P‖/(N/2), so that |object| is the transmission which
    that probe implies. Otherwise (½ ln⟨|object|²⟩)² over the illuminated object: a sample transmits about one.
    """
    if calibrated_log_scale is not None:
        return (log_scale - calibrated_log_scale).square()
    return (0.5 * mean_square.log()).square()
