"""Maximum likelihood over the whole object: its state, steps, schedule, validation, and the rounds above the solver."""

from ptycho_torch.refinement.schedule import SCHEDULE, Schedule, Segment
from ptycho_torch.refinement.solver import OnSweep, Progress, refine
from ptycho_torch.refinement.state import OBJECT_ONLY, Estimate, Initial, Refined, Unknowns

__all__ = [
    "OBJECT_ONLY",
    "SCHEDULE",
    "Estimate",
    "Initial",
    "OnSweep",
    "Progress",
    "Refined",
    "Schedule",
    "Segment",
    "Unknowns",
    "refine",
]
