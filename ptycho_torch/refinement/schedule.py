"""Every number that steers a refinement, in one place, each with the measurement that chose it.

The measurements are rows of `ptycho-torch benchmark` (docs/benchmark.md: dose, overlap, size, probe, object, lines,
measured) and the draws of `benchmarks/positions.py`. "Not measured" means that no row is known to have chosen the
number: it was set when its part was written, and rows measure it only together with the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Segment:
    """A stretch of sweeps with one likelihood, one number of updates in a sweep, and step sizes that change in turn."""

    likelihood: Literal["poisson", "amplitude"]  # where the Poisson likelihood is asked for, else the one asked for
    background_photons: float  # bounds the steps of dark pixels, see `exit_wave_correction`
    subsets_per_update: int  # subsets of patterns that move the object together; 0: all
    steps: tuple[
        tuple[float, float], ...
    ]  # step size and momentum: of the first sweeps, the next, … and all that follow
    least_relative_decrease: float  # of the held-out misfit in a sweep, for this segment to go on

    def step(self, sweeps: int, *, sweeps_per_step: int) -> tuple[float, float]:
        """Step size and momentum after so many sweeps in this segment."""
        return self.steps[min(sweeps // sweeps_per_step, len(self.steps) - 1)]


LARGE_STEPS_FIRST = ((1.0, 0.5), (0.5, 0.8), (0.5, 0.85), (0.5, 0.9))
"""Full steps with little momentum, then half steps with more and more of it: dose and lines, + 10 sweeps."""


@dataclass(frozen=True)
class Schedule:
    """How a refinement goes; `SCHEDULE` is the default, `dataclasses.replace` makes another one."""

    segments: tuple[Segment, ...] = (
        Segment("amplitude", 0.0, 1, LARGE_STEPS_FIRST, 0.05),
        Segment("poisson", 0.03, 1, LARGE_STEPS_FIRST, 0.003),
        Segment("poisson", 0.0, 2, ((1.0, 0.7),), 0.003),
        Segment("poisson", 0.0, 0, ((1.0, 0.9),), 0.0),
    )
    """Step sizes, momenta and the least decrease of 0.003: dose and lines, + 10 sweeps and cold; those of the last one:
    dose, bright rows, oracle. Likelihoods, backgrounds, subsets and the decrease of 0.05: not measured."""
    sweeps_per_step: int = 3
    """Sweeps with each step size, and in each segment at least: dose and lines, + 10 sweeps."""

    probe_from: int = 2
    """First sweep that moves the probe, where it is free; the object has to be there before. Not measured."""
    intensities_from: int = 3
    """First sweep that moves intensities. Not measured."""
    positions_from: int = 4
    """First sweep that moves positions. Not measured."""

    phase_gradient_sweeps: tuple[int, ...] = (3, 6, 9, 12, 15, 18)
    """Sweeps after which the slow phase is read from the shifts of the patterns: dose 1e2 … 1e4, phase, from the fourth
    on; the first three not measured. Not in the near field, where a phase ramp shifts no pattern."""

    position_search_radii_px: tuple[tuple[int, int], ...] = (
        *((3, 4), (4, 3), (5, 3), (6, 2), (7, 2), (8, 1), (9, 1), (10, 1)),
        *((12, 6), (14, 2), (16, 1), (20, 6), (22, 2), (24, 1)),
    )
    """(sweep, radius): after these sweeps positions are also sought on a square of this half side, and until the last
    of them the segment stays. positions.py measures them together, none alone."""
    confirmed_search_from_px: int = 6
    """A search this wide looks at the object only where several patterns confirm it. Chosen by a pattern at the rim
    that stands 6 px off (a law in the tests), and by no row."""
    confirmed_illumination: tuple[float, float] = (0.15, 0.45)
    """Fractions of the largest illumination at which the object counts as confirmed not at all, and fully: the same."""
    steps_with_positions: tuple[float, float] = (0.5, 0.5)
    """Step size and momentum of the object where positions move, but in the last segment: an object with more momentum
    takes wrong positions for granted. Not measured."""
    position_momentum: float = 0.5
    """Momentum of positions. Not measured."""
    largest_move_px: float = 0.5
    """No gradient step moves a position farther in y or x. Not measured."""
    over_relaxation: float = 3.0
    """What the moves of a sweep have in common within the radius of the probe is added this many times once more, and
    the object is warped along. positions.py, together with the rounds."""
    affine_over_relaxation: float = 6.0
    """The same for the moves of an affine map. Not measured."""
    largest_over_relaxation_px: float = 1.0
    """Over-relaxation moves no position farther in y or x. Not measured."""

    largest_intensity_change: float = 2.0
    """Before its square root is taken, no sweep changes an intensity by a larger factor. Not measured."""

    significant_gain: float = 2.0
    """Standard errors by which the held-out misfit has to fall (or rise) for a sweep to have gained (or lost) anything.
    Not measured."""
    equivalent_gain: float = 1.0
    """Standard errors within which two objects explain the held-out patterns equally well: dose 1e2 … 1e4, + 10."""
    noise_misfit: float = 1.0
    """Photon noise leaves a misfit of about ½ per pixel. Above this one a network's object is refined from the first
    segment on, not from the second, and a segment has patience: dose, bright rows."""
    patience: int = 3
    """Sweeps without a gain that end no segment while the misfit is above `noise_misfit`: dose, bright rows."""
    idle_sweeps: int = 10
    """Full-batch sweeps without an improvement that end a refinement. Not measured."""
    damping_factor: float = 0.5
    """What a full-batch sweep that has made the held-out misfit worse leaves of the next steps' details, and what the
    last segment begins with after a loss. That details alone are damped: dose 1e2 and 1e3; the factor: not measured."""
    damping_recovery: float = 1.3
    """The factor by which damped steps grow again in every other sweep, up to the full step. Not measured."""

    subsets_with_positions: float = 0.75
    """Fraction of the subsets that a sweep has where positions move: an object that follows every pattern at once hides
    where each was taken. Not measured."""
    margin_px: int = 12
    """Room on the canvas around positions that move: twice the widest search. Not measured."""
    search_sweeps: int = 30
    """Sweeps of the first round, which searches positions; with the three below: positions.py, 90 sweeps."""
    near_sweeps: int = 20
    """Sweeps of each round near them."""
    most_near_rounds: int = 4
    """Largest number of these rounds."""
    fixed_sweeps: int = 20
    """Sweeps of the last round at least, with the positions held."""


SCHEDULE = Schedule()


@dataclass(frozen=True)
class ProbeSearch:
    """How an unknown probe is searched from the patterns. Not measured: no row of the benchmark searches a probe."""

    widths: tuple[float, ...] = (0.0, 0.15, -0.15, 0.3, -0.3, 0.45, -0.45, 0.6, -0.6, 0.75, -0.75)
    """Geometric width of the defocused cone over N, with the sign of the defocus."""
    patterns: int = 128
    """Patterns, in the middle of the scan, that the search looks at."""
    sweeps: int = 10
    """Sweeps for each width."""
    refined_patterns: int = 512
    """Patterns that a given probe is refined with."""
    refined_sweeps: int = 40
    """Sweeps with which the best probe, or a given one, is refined."""
    held_out_fraction: float = 0.1
    """Fraction of the patterns that is held out, whole."""


PROBE_SEARCH = ProbeSearch()
