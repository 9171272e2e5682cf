"""Held-out patterns or pixels, which no step uses: their misfit selects the best sweep and ends segments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ptycho_torch.data.region import Region
from ptycho_torch.physics.likelihood import Likelihood, as_likelihood
from ptycho_torch.physics.low_pass import combine_frequencies
from ptycho_torch.refinement.state import Estimate, Unknowns, copied


def held_out_misfits(
    region: Region, estimate: Estimate, unknowns: Unknowns, likelihood: str | Likelihood = "poisson"
) -> Tensor:
    """Misfit per held-out pixel of each held-out pattern (of all patterns, where none is), float64 `[n]`."""
    measure, parts = as_likelihood(likelihood), []
    for batch in region.validation_batches():
        predicted = region.forward.counts(estimate.object, estimate.exposure(batch, unknowns))
        parts.append(measure.value(predicted, batch.amplitude, batch.valid))
    return torch.cat(parts).double()


def gain_in_standard_errors(before: Tensor, after: Tensor) -> float:
    """Mean decrease of these misfits of patterns `[n]`, in standard errors."""
    gain = before - after
    return float(gain.mean() / (gain.std() / math.sqrt(len(gain)) + 1e-30)) if len(gain) > 1 else 0.0


@dataclass(eq=False)
class History:
    """The held-out misfit after each sweep, and the best estimate so far."""

    best: Estimate
    last: Estimate
    best_sweep: int = 0
    best_values: Tensor = field(default_factory=lambda: torch.zeros(0))  # of each held-out pattern
    values: Tensor = field(default_factory=lambda: torch.zeros(0))  # after the last sweep
    misfits: list[float] = field(default_factory=list)  # their means, after 0, 1, 2 … sweeps
    gain: float = 0.0  # of the last sweep, in standard errors

    def add(self, estimate: Estimate, values: Tensor) -> float:
        """Record a sweep (the first time: the initial object); returns its mean misfit."""
        misfit, sweep = float(values.mean()), len(self.misfits)
        if sweep:
            self.gain = gain_in_standard_errors(self.values, values)
        self.values, self.last = values, copied(estimate)
        if not self.misfits or (math.isfinite(misfit) and misfit < min(self.misfits)):
            self.best, self.best_sweep, self.best_values = self.last, sweep, values
        self.misfits.append(misfit)
        return misfit


def combine_with_initial(
    initial: Tensor,
    history: History,
    light: Tensor,
    *,
    misfits_of: Callable[[Tensor], Tensor],
    equivalent_gain: float,
) -> tuple[Tensor, Tensor] | None:
    """The low frequencies of the last object with the high ones of the initial or of the best: the first of the two
    whose held-out misfit is equivalent to that of the best object and not above that of the initial one; else None.

    The held-out patterns are nearly blind to slow phase variations; the fitted ones determine them better with every
    sweep. Of high frequencies with equivalent misfits, the initial ones have less noise. initial, light: `[H, W]`;
    `misfits_of(object)` are its `held_out_misfits`; those of the result are returned with it.
    """
    last = history.last.object
    if not last.isfinite().all():
        return None
    for details in (initial, history.best.object):
        obj = combine_frequencies(details, last, light)
        values = misfits_of(obj)
        is_equivalent = gain_in_standard_errors(history.best_values, values) > -equivalent_gain
        if is_equivalent and float(values.mean()) <= history.misfits[0]:
            return obj, values
    return None
