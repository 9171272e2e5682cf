"""The geometry of a scan before it is believed: unit and size, probe, and the centre of the patterns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ptycho_torch.data.geometry import check_canvas, in_pixels, largest_island, remarks, with_probe_centred
from ptycho_torch.data.scan import Scan
from ptycho_torch.devices import available_bytes
from ptycho_torch.verdict import hypotheses
from ptycho_torch.verdict.causes import Cause
from ptycho_torch.verdict.doctors import SWEEPS, around, is_better, middle
from ptycho_torch.verdict.trials import Hypothesis, as_given, trial

SHARE = 0.8
"""Of the free memory, for the canvas."""
AS_GIVEN = Hypothesis(Cause.CENTRE, "the patterns as they are", "", as_given)


def with_settled_geometry(scan: Scan) -> Scan:
    """The scan with positions in object pixels and a centred probe, and notes about both; DataError where the positions
    can't be, or where the canvas does not fit into memory."""
    scan = largest_island(with_probe_centred(in_pixels(scan)))
    check_canvas(scan, available_bytes=SHARE * available_bytes())
    return replace(scan, notes=(*scan.notes, *remarks(scan)))


def with_settled_centre(
    scan: Scan, *, device: torch.device | str = "cpu", say: Callable[[str], object] = lambda _: None
) -> Scan:
    """The scan with its patterns rolled to the centre of the empty beam, where their mean lies a pixel or more off it
    and this explains held-out pixels significantly better. The probe is in √photons; far field only."""
    if scan.propagation != "far" or scan.probe_is_guess or len(scan) < 2:
        return scan
    chosen = around(scan, middle(scan.positions))
    candidates = list(hypotheses.centre(scan, chosen))
    if not candidates:
        return scan
    given = trial(AS_GIVEN, scan, chosen, sweeps=SWEEPS, device=device)
    found = trial(candidates[0], scan, chosen, sweeps=SWEEPS, device=device)
    if given is None or found is None or not is_better(found, given):
        return scan
    note = f"{candidates[0].what} to the centre of the beam explains them {found.factor(given):.3g} x better: done"
    say(note)
    rolled = candidates[0].change(scan, np.arange(len(scan)))
    return replace(rolled, notes=(*scan.notes, note))
