"""Simulated scans: made-up objects, probes and scan paths through the physics that training calls."""

from ptycho_torch.data.simulation.acquire import SimulatedScan, acquire, simulate_scan
from ptycho_torch.data.simulation.objects import OBJECTS
from ptycho_torch.data.simulation.probes import PROBES, make_probe
from ptycho_torch.data.simulation.scan_paths import SCAN_PATHS

__all__ = ["OBJECTS", "PROBES", "SCAN_PATHS", "SimulatedScan", "acquire", "make_probe", "simulate_scan"]
