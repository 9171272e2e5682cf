"""Maximum likelihood over the whole object: where it starts, how it sweeps, what it takes out afterwards."""

from ptycho_torch.refinement.course import Freedom, Refined, refine

__all__ = ["Freedom", "Refined", "refine"]
