"""Simulated scans: made-up objects, probes and scan paths through the physics that training calls."""

from ptycho_torch.simulation.acquire import NearFieldGeometry, SimulatedScan, acquire, simulate_scan
from ptycho_torch.simulation.objects import OBJECTS
from ptycho_torch.simulation.probes import PROBES, make_probe
from ptycho_torch.simulation.scan_paths import SCAN_PATHS

__all__ = [
    "OBJECTS",
    "PROBES",
    "SCAN_PATHS",
    "NearFieldGeometry",
    "SimulatedScan",
    "acquire",
    "make_probe",
    "simulate_scan",
]
