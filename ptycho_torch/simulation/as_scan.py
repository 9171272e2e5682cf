"""A simulated scan as a `Scan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptycho_torch.data.scan import Scan
from ptycho_torch.simulation.acquire import simulate_scan


def simulate(**options: Any) -> Scan:
    """A checked scan of a simulated object, with its truth in `obj`; the options are those of `simulate_scan`.

    The same as the scan file that `simulate` writes, read again. Raises UsageError for an impossible value.
    """
    made = simulate_scan(**options)
    geometry: dict[str, Any] = {} if made.near is None else {"propagation": "near", **made.near.lengths_m()}
    return Scan.from_arrays(
        made.amplitude,
        made.positions,
        nominal_positions=made.nominal_positions,
        probe=made.probe,
        probe_origin="simulated",
        valid=made.valid,
        obj=made.obj,
        domain="amplitude",
        domain_reason="simulated",
        nphotons=made.photons,
        source=Path("a simulated scan"),
        **geometry,
    )
