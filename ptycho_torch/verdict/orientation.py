"""Which way the positions lie against the detector: one of eight orientations, a rotation, and a lag of the frames.

The deflections of the beam rank all of them at once (`deflection`); trials on some patterns decide between the best of
these and the scan as given, and turn the winner by some degrees. The scan as given stays unless another explains its
held-out pixels significantly better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ptycho_torch.data.axes import Orientation, rotation
from ptycho_torch.data.geometry import neighbour_distance, probe_width, turned
from ptycho_torch.data.scan import Scan
from ptycho_torch.verdict.causes import Cause
from ptycho_torch.verdict.deflection import Relation, deflections, relations
from ptycho_torch.verdict.doctors import BETTER, EQUAL, FEWEST_AT_ALL, SIGNIFICANT, middle
from ptycho_torch.verdict.hypotheses import ORIENTATIONS, is_its_twin
from ptycho_torch.verdict.trials import Hypothesis, Trial, trial

LAGS = (-2, -1, 0, 1, 2)
DEFLECTED = 300
"""Patterns whose deflections are compared."""
FEWEST, MOST, PIXELS = 64, 128, 2**19
"""Patterns of a trial: half of the scan, within these, and so many pixels in all."""
SWEEPS = 6
SPARSE = 0.3
"""Distance of the patterns of a trial over the width of the probe, where there are enough."""
FEW, FEW_SWEEPS = 32, 4
"""Of the first trials, where the deflections don't decide."""
CLEAR, SHARP = 25.0, 10.0
"""Nats by which the deflections decide on lag and mirror, and on the angle. In 120 simulated scans of 80 to 300
patterns a wrong one led by 9 at most, and in those with 1e4 photons or more the right one by 12 to 1000."""
CLOSEST = 5
"""Otherwise, how many of the likeliest are tried, beside the scan as given and the coarse angles."""
COARSE = 30
"""Degrees between these."""
NEAR = 10.0
"""Degrees up to which a rotation is left to `--position-correction affine`: six sweeps don't tell it from none."""
MUCH_BETTER = 1.15
"""Ratio of the misfits by which one angle is preferred to another: after six sweeps they differ by 6 % at random."""
ANOTHER = 20.0
"""Degrees from which on a rotation is of another class."""
WIDE, STEP, ROUNDS = 9.0, 4.0, 3
"""Degrees on either side of the best, in wide steps and for a parabola; and how often. Around a Siemens star the
deflections were wrong by up to 25°, elsewhere by 3°."""


@dataclass(frozen=True, order=True)
class Lie:
    """How positions lie: of frame j, position j + `lag`, its axes swapped and flipped, then turned from x towards y."""

    lag: int = 0
    swap: bool = False
    flip: str = ""
    degrees: float = 0.0

    @classmethod
    def of(cls, matrix: np.ndarray, lag: int) -> Lie:
        """From an orthogonal matrix on (y, x): the orientation of least rotation, at most 45°, simplest words first."""
        every = (Orientation(False, (False, False)), *ORIENTATIONS)
        angles = [_angle(matrix @ each.matrix.T) for each in every]
        best = min(
            range(len(every)), key=lambda k: (math.inf if angles[k] is None else round(abs(angles[k] or 0), 3), k)
        )
        return cls(lag, every[best].swap, every[best].flip_name, round(angles[best] or 0.0, 2) + 0.0)

    @property
    def matrix(self) -> np.ndarray:
        """M, on (y, x)."""
        return rotation(self.degrees) @ Orientation.of(swap=self.swap, flip=self.flip).matrix

    def turned(self, degrees: float) -> Lie:
        """Turned further."""
        return Lie.of(rotation(degrees) @ self.matrix, self.lag)

    @property
    def snapped(self) -> Lie:
        """Without the rotation."""
        return Lie(self.lag, self.swap, self.flip)

    @property
    def settings(self) -> dict[str, object]:
        """What `turned` takes."""
        found: dict[str, object] = {"swap_axes": True} if self.swap else {}
        if self.flip:
            found["flip"] = self.flip
        if self.degrees:
            found["rotation"] = f"{self.degrees:g}deg"
        if self.lag:
            found["frame_lag"] = str(self.lag)
        return found

    def __str__(self) -> str:
        """As the flags of a command."""
        words = [
            f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            for name, value in self.settings.items()
        ]
        return " ".join(words) or "as given"

    def applied(self, scan: Scan) -> Scan:
        """The scan, lying so."""
        return turned(scan, **self.settings)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Found:
    """How the positions lie, against what was given."""

    lie: Lie
    by: str  # what told: trials, deflections, or nothing
    factor: float = 1.0  # of trials: how many times better than the scan as given
    margin: float = math.inf  # of trials: how many times worse the next class is that was tried
    nats: float = 0.0  # by which the deflections prefer the likeliest class to the next
    lags: tuple[int, ...] = ()  # that explain the patterns as well
    twin_remains: bool = True
    sweeps: float = 0.0  # what the search cost, in sweeps over the whole scan

    @property
    def is_change(self) -> bool:
        return self.lie != Lie()

    @property
    def text(self) -> str:
        """A line: what was found, by what margin, and what can't be told."""
        if self.by == NOTHING:
            return "the patterns do not tell how the positions lie: they are taken as given"
        if not self.is_change:
            said = "the positions lie as given"
        elif self.by == TRIALS:
            said = f"{self.lie} explains the patterns {self.factor:.3g} x better than the positions as given"
        else:
            said = f"the positions lie otherwise: {self.lie}"
        if self.by == TRIALS and math.isfinite(self.margin):
            is_worse = self.margin >= BETTER
            said += f"; the next class is {self.margin:.3g} x worse" if is_worse else "; others explain them as well"
        elif self.nats:
            said += f"; the deflections of the beam prefer it to the next class by {self.nats:.3g} nats"
        if len(self.lags) > 1:
            said += f"; frame lags {', '.join(f'{lag:+d}' if lag else '0' for lag in self.lags)} are equal"
        if self.twin_remains:
            said += (
                "; the twin (both axes flipped) is as likely: a measured probe that isn't its own twin tells them apart"
            )
        return said

    def as_dict(self) -> dict[str, object]:
        return {
            "changed": self.is_change,
            "flags": str(self.lie) if self.is_change else "",
            "by": self.by,
            "factor": float(f"{self.factor:.4g}"),
            "margin": float(f"{self.margin:.4g}") if math.isfinite(self.margin) else None,
            "nats": float(f"{self.nats:.4g}"),
            "equal_lags": list(self.lags),
            "twin_remains": self.twin_remains,
            "text": self.text,
        }


TRIALS, DEFLECTIONS, NOTHING = "trials", "deflections", "nothing"


class Search:
    """Trials of ways to lie, each once, and what they cost."""

    def __init__(self, scan: Scan, chosen: np.ndarray, device: torch.device | str) -> None:
        self.scan, self.chosen, self.device = scan, chosen, device
        self.done = dict[tuple[Lie, bool], Trial]()
        self.visits = 0

    def misfit(self, lie: Lie, *, few: bool = False) -> float:
        """Of the held-out pixels; infinite where the positions so spread too far."""
        found = self.tried(lie, few=few)
        return math.inf if found is None else found.misfit

    def tried(self, lie: Lie, *, few: bool = False) -> Trial | None:
        chosen = self.chosen[:FEW] if few else self.chosen
        key = lie, few
        if key not in self.done:
            hypothesis = Hypothesis(Cause.ROTATION, str(lie), str(lie), lambda scan, some: _lying(scan, some, lie))
            sweeps = FEW_SWEEPS if few else SWEEPS
            found = trial(hypothesis, self.scan, chosen, sweeps=sweeps, device=self.device)
            self.visits += sweeps * len(chosen)
            if found is None:
                return None
            self.done[key] = found
        return self.done[key]

    def best(self, candidates: Iterable[Lie], *, few: bool = False) -> list[Lie]:
        """Of least misfit first; those that are equal in the order given."""
        return sorted(dict.fromkeys(candidates), key=lambda lie: self.misfit(lie, few=few))


def find_orientation(scan: Scan, *, device: torch.device | str = "cpu") -> Found:
    """The lie of the positions that explains the patterns best. The probe is in √photons (`Predictor.in_photons`).

    Deterministic. Costs 10 to 15 sweeps over a scan of 250 patterns where the deflections decide, up to 50 where they
    don't. Where the probe is a guess, or wrong, so that no trial decides, the deflections do, or nothing.
    """
    reach = max(LAGS)
    centre = middle(scan.positions)
    nearest = np.argsort(np.square(scan.positions - scan.positions[centre]).sum(1), kind="stable")
    inside = nearest[(nearest >= reach) & (nearest < len(scan) - reach)]
    if len(inside) < FEWEST_AT_ALL or not neighbour_distance(scan.positions[inside]):
        return Found(Lie(), NOTHING)
    many = np.sort(inside[:DEFLECTED])
    ranked, given = relations(scan.positions, deflections(scan, many), many, LAGS)
    near = [each.lag for each in ranked if each.log_likelihood > ranked[0].log_likelihood - CLEAR]
    if scan.probe_is_guess:
        return _by_deflections(ranked, given)
    count = int(np.clip(len(scan) // 2, FEWEST, min(MOST, max(FEWEST, PIXELS // scan.n**2))))
    found = _by_trials(Search(scan, _spread(scan, inside, count), device), ranked, tuple(sorted(set(near))))
    if found.is_change or found.margin >= BETTER:
        return found
    alone = _by_deflections(ranked, given)  # no trial explains the patterns, as with a wrong probe
    return found if alone.by == NOTHING else replace(alone, sweeps=found.sweeps)


def _spread(scan: Scan, inside: np.ndarray, count: int) -> np.ndarray:
    """So many patterns around the middle; where they overlap much, some between them are left out, so that they reach
    farther and an angle moves them more."""
    denser = SPARSE * probe_width(scan) / max(neighbour_distance(scan.positions[inside]), 1e-30)
    every = int(np.clip(denser**2, 1, max(1, len(inside) // count)))
    return inside[: every * count : every]


def _by_deflections(ranked: list[Relation], given: Relation) -> Found:
    """What the deflections tell alone: the likeliest class, if it leads, with no rotation where it is small."""
    best, lead = ranked[0], _lead(ranked)
    if lead < CLEAR:
        return Found(Lie(), NOTHING)
    near = [each for each in ranked if best.log_likelihood - each.log_likelihood < CLEAR]
    lags = tuple(sorted(each.lag for each in near))
    lie = Lie.of(best.matrix, 0 if 0 in lags else best.lag)
    lie = min((lie, lie.turned(180)), key=_words)
    if abs(lie.degrees) <= NEAR:
        lie = lie.snapped
    if best.log_likelihood - given.log_likelihood < CLEAR:
        lie = Lie()
    return Found(lie, DEFLECTIONS, nats=lead, lags=lags)


def _lead(ranked: list[Relation]) -> float:
    """By how many nats the likeliest relation leads those of the other handedness."""
    best = ranked[0]
    others = (each for each in ranked if np.linalg.det(each.matrix) * np.linalg.det(best.matrix) < 0)
    return best.log_likelihood - max(each.log_likelihood for each in others)


def _by_trials(search: Search, ranked: list[Relation], near: tuple[int, ...]) -> Found:
    """What trials tell of the likeliest by the deflections; of lags, those `near` are compared."""
    scan, given = search.scan, Lie()
    twin_remains = is_its_twin(scan.probe)
    is_clear = ranked[0].log_likelihood - ranked[1].log_likelihood >= CLEAR
    candidates = _candidates(search, ranked[: 1 if is_clear else CLOSEST], is_clear, with_twins=not twin_remains)
    is_sharp = is_clear and ranked[0].degrees_within(SHARP) < STEP
    candidates += [each.snapped for each in candidates if abs(each.degrees) > NEAR]
    best = _turned_closer(search, search.best([given, *candidates])[0], is_sharp=is_sharp)
    as_given, winner = search.tried(given), search.tried(best)
    if as_given is None or winner is None:
        return Found(given, NOTHING)
    lags = tuple(lag for lag in near if _is_equal(search, replace(best, lag=lag), winner))
    if 0 in lags and best.lag:
        best = replace(best, lag=0)
        winner = search.tried(best) or winner
    if winner.gain(as_given) < SIGNIFICANT or winner.factor(as_given) < BETTER:
        best, winner = given, as_given
    others = [each.misfit for (lie, few), each in search.done.items() if not few and _differs(lie, best, lags)]
    return Found(
        lie=best,
        by=TRIALS,
        factor=winner.factor(as_given),
        margin=min(others, default=math.inf) / max(winner.misfit, 1e-30),
        nats=max(0.0, _lead(ranked)),
        lags=lags if lags else (best.lag,),
        twin_remains=twin_remains,
        sweeps=search.visits / len(scan),
    )


def _candidates(search: Search, ranked: list[Relation], is_clear: bool, *, with_twins: bool) -> list[Lie]:
    """What is tried on all patterns: the likeliest by the deflections, or the best of first trials on a few."""

    def both(lies: list[Lie]) -> list[Lie]:
        """With their twins, or the simpler of the two where they can't be told apart."""
        pairs = [(each, each.turned(180)) for each in lies]
        return [lie for pair in pairs for lie in (pair if with_twins else (min(pair, key=_words),))]

    likeliest = [Lie.of(each.matrix, each.lag) for each in ranked]
    if is_clear:
        return both(likeliest)
    coarse = [Lie.of(rotation(angle) @ mirror, 0) for mirror in MIRRORS for angle in range(0, 180, COARSE)]
    return search.best(both([*likeliest, *coarse]), few=True)[:3]


def _words(lie: Lie) -> int:
    """How much there is to say: the simpler of two is named."""
    return len(lie.settings) + (lie.flip == "xy")


MIRRORS = (np.eye(2), np.diag([1.0, -1.0]))


def _turned_closer(search: Search, lie: Lie, *, is_sharp: bool) -> Lie:
    """Turned by wide steps, then by a parabola through three angles, while that explains the patterns much better;
    without a rotation that is small."""
    if not lie.degrees:
        return lie
    start = lie
    for _ in range(ROUNDS):
        best = search.best([lie.turned(-WIDE), lie.turned(WIDE)])[0]
        if not _is_much_better(search, best, lie):
            break
        lie = best
    for _ in range(0 if is_sharp and lie == start else ROUNDS):
        before, here, after = (search.misfit(lie.turned(angle)) for angle in (-STEP, 0.0, STEP))
        bend = before - 2 * here + after
        shift = STEP / 2 * (before - after) / bend if bend > 0 and math.isfinite(bend) else 0.0
        moves = [-STEP, STEP, float(np.clip(shift, -2 * STEP, 2 * STEP))]
        best = search.best([lie.turned(move) for move in moves])[0]
        if not _is_much_better(search, best, lie):
            break
        lie = best
    return lie.snapped if abs(lie.degrees) <= NEAR else lie


def _is_much_better(search: Search, lie: Lie, than: Lie) -> bool:
    found, other = search.tried(lie), search.tried(than)
    if found is None or other is None:
        return other is None
    return found.gain(other) >= EQUAL and found.factor(other) >= MUCH_BETTER


def _is_equal(search: Search, lie: Lie, winner: Trial) -> bool:
    found = search.tried(lie)
    return found is not None and winner.gain(found) < EQUAL


def _differs(lie: Lie, best: Lie, lags: tuple[int, ...]) -> bool:
    """Whether another lag than those that are equal, another mirror, or turned by `ANOTHER` angle, up to the twin."""
    apart = lie.matrix @ best.matrix.T
    is_turned = np.linalg.det(apart) < 0 or abs(np.trace(apart)) < 2 * math.cos(math.radians(ANOTHER))
    return is_turned or lie.lag not in (best.lag, *lags)


def _lying(scan: Scan, chosen: np.ndarray, lie: Lie) -> Scan:
    """The chosen patterns, lying so."""
    part = replace(scan.subset(chosen), positions=scan.positions[chosen + lie.lag])
    return replace(lie, lag=0).applied(part)


def _angle(matrix: np.ndarray) -> float | None:
    """Of a rotation [degrees], from x towards y; None for a mirror."""
    if np.linalg.det(matrix) < 0:
        return None
    return math.degrees(math.atan2(matrix[0, 1] - matrix[1, 0], np.trace(matrix)))
