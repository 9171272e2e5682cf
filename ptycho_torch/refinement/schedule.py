"""All step sizes, momenta and thresholds of a refinement, each with the measurement that chose it.

The measurements are rows of `ptycho-torch benchmark` (docs/benchmark.md: dose, overlap, size, probe, object, lines,
measured) and the draws of `benchmarks/positions.py`. "Not measured" means that no single row
chose the number; the rows measure it together with the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Segment:
    """A segment of sweeps with one likelihood, one number of updates per sweep, and a sequence of step sizes."""

    likelihood: Literal["poisson", "amplitude"]  # for --likelihood poisson; any other likelihood holds in all segments
    background_photons: float  # bounds the steps of dark pixels, see `exit_wave_correction`
    subsets_per_update: int  # subsets of patterns per update of the object; 0: all
    steps: tuple[
        tuple[float, float], ...
    ]  # step size and momentum of the first sweeps, the next, … and all that follow
    least_relative_decrease: float  # of the held-out misfit per sweep, for this segment to continue

    def step(self, sweeps: int, *, sweeps_per_step: int) -> tuple[float, float]:
        """Step size and momentum after this number of sweeps in this segment."""
        return self.steps[min(sweeps // sweeps_per_step, len(self.steps) - 1)]


LARGE_STEPS_FIRST = ((1.0, 0.5), (0.5, 0.8), (0.5, 0.85), (0.5, 0.9))
"""Full steps with little momentum, then half steps with increasing momentum: dose and lines, + 10 sweeps."""


@dataclass(frozen=True)
class Schedule:
    """The schedule of a refinement; `SCHEDULE` is the default, `dataclasses.replace` makes another one."""

    segments: tuple[Segment, ...] = (
        Segment("amplitude", 0.0, 1, LARGE_STEPS_FIRST, 0.05),
        Segment("poisson", 0.03, 1, LARGE_STEPS_FIRST, 0.003),
        Segment("poisson", 0.0, 2, ((1.0, 0.7),), 0.003),
        Segment("poisson", 0.0, 0, ((1.0, 0.9),), 0.0),
    )
    """Step sizes, momenta and the least decrease of 0.003: dose and lines, + 10 sweeps and flat; those of the last one:
    dose, high-dose rows, oracle. Likelihoods, backgrounds, subsets and the decrease of 0.05: not measured."""
    sweeps_per_step: int = 3
    """Sweeps with each step size, and in each segment at least: dose and lines, + 10 sweeps."""

    probe_from: int = 2
    """First sweep that updates the probe; the object needs to take shape before. Not measured."""
    intensities_from: int = 3
    """First sweep that updates intensities. Not measured."""
    positions_from: int = 4
    """First sweep that updates positions. Not measured."""

    phase_gradient_sweeps: tuple[int, ...] = (3, 6, 9, 12, 15, 18)
    """Sweeps after which the slow phase is read from the shifts of the patterns: dose 1e2 … 1e4, phase, from the fourth
    on; the first three not measured. Far field only."""

    position_search_radii_px: tuple[tuple[int, int], ...] = (
        *((3, 4), (4, 3), (5, 3), (6, 2), (7, 2), (8, 1), (9, 1), (10, 1)),
        *((12, 6), (14, 2), (16, 1), (20, 6), (22, 2), (24, 1)),
    )
    """(sweep, radius): after these sweeps positions are also searched at offsets of 0 or ± this radius in y and x;
    until the last of them the segment does not change. positions.py measures them together, none alone."""
    confirmed_search_from_px: int = 6
    """A search of at least this radius uses the object only where several patterns illuminate it. Chosen by a pattern
    at the edge of the scan with an error of 6 px (a test), not by a row."""
    confirmed_illumination: tuple[float, float] = (0.15, 0.45)
    """Fractions of the largest illumination at which the object gets zero and full weight in such a search: as
    above."""
    steps_with_positions: tuple[float, float] = (0.5, 0.5)
    """Step size and momentum of the object where positions are refined, except in the last segment: with more momentum
    the object adapts to wrong positions. Not measured."""
    position_momentum: float = 0.5
    """Momentum of positions. Not measured."""
    largest_move_px: float = 0.5
    """Largest step of a position in y or x. Not measured."""
    over_relaxation: float = 3.0
    """The part of the moves of a sweep that is common within the radius of the probe is added this many times more, and
    the object is warped by the same field. positions.py, together with the rounds."""
    affine_over_relaxation: float = 6.0
    """The same for the moves of an affine map. Not measured."""
    largest_over_relaxation_px: float = 1.0
    """Largest over-relaxation of a position in y or x. Not measured."""

    drift_degree: int = 3
    """Degree of the polynomial of the frame's number that the logarithms of a drifting beam's intensities follow. Of a
    beam that falls to 40 % in a straight line, degree 3 leaves the objects of 11 simulated scans at a mean correlation
    of 0.825 with the truth, degree 2 at 0.824, free intensities at 0.817; a steady beam, 0.844."""
    largest_intensity_change: float = 2.0
    """Largest change of an intensity per sweep, before its square root is taken. Not measured."""

    significant_gain: float = 2.0
    """Standard errors from which on a decrease (or increase) of the held-out misfit is significant. Not measured."""
    equivalent_gain: float = 1.0
    """Standard errors within which two objects have equivalent held-out misfits: dose 1e2 … 1e4, + 10."""
    noise_misfit: float = 1.0
    """Photon noise leaves a misfit of about ½ per pixel. Above this value, the object of the pretrained network is
    refined from the first segment on, not from the second, and `patience` applies: dose, high-dose rows."""
    patience: int = 3
    """Sweeps without a gain that do not end a segment while the misfit is above `noise_misfit`: dose, high-dose
    rows."""
    idle_sweeps: int = 10
    """Full-batch sweeps without an improvement that end a refinement. Not measured."""
    damping_factor: float = 0.5
    """Factor on the high spatial frequencies of the next steps after a full-batch sweep that increases the held-out
    misfit, and at the start of the last segment after a loss. That only high frequencies are damped: dose 1e2 and 1e3;
    the factor: not measured."""
    damping_recovery: float = 1.3
    """The factor by which damped steps grow again in each of the other sweeps, up to the full step. Not measured."""

    subsets_with_positions: float = 0.75
    """Fraction of the subsets of a sweep where positions are refined: an object that follows each pattern at once
    adapts to its wrong position. Not measured."""
    margin_px: int = 12
    """Margin of the canvas where positions are refined: twice the widest search. Not measured."""
    search_sweeps: int = 30
    """Sweeps of the first round, which searches positions; with the three values below: positions.py, 90 sweeps."""
    near_sweeps: int = 20
    """Sweeps of each of the following rounds."""
    most_near_rounds: int = 4
    """Largest number of following rounds."""
    fixed_sweeps: int = 20
    """Least number of sweeps of the last round, with fixed positions."""


SCHEDULE = Schedule()


@dataclass(frozen=True)
class ProbeSearch:
    """The search of an unknown probe from the patterns. Not measured: no row of the benchmark searches a probe."""

    widths: tuple[float, ...] = (0.0, 0.15, -0.15, 0.3, -0.3, 0.45, -0.45, 0.6, -0.6, 0.75, -0.75)
    """Geometric width of the defocused probe over N, with the sign of the defocus."""
    patterns: int = 128
    """Number of patterns, in the middle of the scan, that the search uses."""
    sweeps: int = 10
    """Sweeps for each width."""
    refined_patterns: int = 512
    """Number of patterns for the refinement of a given probe."""
    refined_sweeps: int = 40
    """Sweeps of the refinement of the best probe, or of a given one."""
    held_out_fraction: float = 0.1
    """Fraction of the patterns that are held out, whole."""


PROBE_SEARCH = ProbeSearch()
