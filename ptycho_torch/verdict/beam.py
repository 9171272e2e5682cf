"""Whether a trend of the light over the scan is the beam's or the specimen's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ptycho_torch.data.scan import Scan
from ptycho_torch.verdict.causes import Cause
from ptycho_torch.verdict.doctors import SWEEPS, around, is_better, middle
from ptycho_torch.verdict.trials import Hypothesis, as_given, trial

STEADY = Hypothesis(Cause.INTENSITIES, "a steady beam", "", as_given)


def with_settled_drift(
    scan: Scan, *, device: torch.device | str = "cpu", say: Callable[[str], object] = lambda _: None
) -> Scan:
    """The scan with the intensities of a drifting beam, where they explain held-out pixels significantly better than a
    steady one; else without the drift. Where intensities jump, too, they follow no drift afterwards.

    The probe is in √photons. Two short trials on some patterns in the middle of the scan.
    """
    if scan.drift is None:
        return scan
    chosen, steady = around(scan, middle(scan.positions)), replace(scan, drift=None)
    usual = np.ones(len(scan), np.float32) if scan.intensities is None else scan.intensities
    drifting = replace(scan, intensities=(usual * scan.drift).astype(np.float32))
    before, after = (trial(STEADY, each, chosen, sweeps=SWEEPS, device=device) for each in (steady, drifting))
    if before is None or after is None or not is_better(after, before, factor=1):
        return steady
    last, first = float(scan.drift[-1]), float(scan.drift[0])
    note = (
        f"the light of the frames changes steadily to {last / first:.2g} x over the scan, which is the beam's: its "
        f"intensities explain the patterns {after.factor(before):.3g} x better, and a refinement frees them"
    )
    say(note)
    return replace(drifting, drift=scan.drift if scan.intensities is None else None, notes=(*scan.notes, note))
