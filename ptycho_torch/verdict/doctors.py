"""Doctors: why a result does not explain its patterns, by short trials of changed scans.

Each hypothesis is a change of the scan. Some sweeps on patterns in the middle of the scan give a held-out misfit of
every pattern, and the changed scan is compared with the given one, pattern by pattern. A hypothesis is a cure if it
explains the patterns better; one that changes how much the patterns overlap, also better than two models in which
positions play no part: one object for each pattern (positions far apart), and one for all of them (positions all the
same). Where no other orientation explains the patterns as well as the given one, patterns and positions belong
together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from ptycho_torch.data.geometry import neighbour_distance
from ptycho_torch.data.grouping import compact_region
from ptycho_torch.data.scan import Scan
from ptycho_torch.refinement.state import OBJECT_ONLY, Unknowns
from ptycho_torch.refinement.validation import gain_in_standard_errors
from ptycho_torch.types import Reason
from ptycho_torch.verdict import detector, hypotheses
from ptycho_torch.verdict.causes import Cause
from ptycho_torch.verdict.lost_frame import find_lost_frame
from ptycho_torch.verdict.trials import Hypothesis, Trial, as_given, misfits_of, trial

PIXELS, FEWEST, MOST = 2**19, 64, 256
"""Pixels of the patterns of a trial, and the number of patterns: 128 of 64 x 64."""
FEW = 24
"""Patterns for the coarse searches of scale and angle: so few that they stay together when a scale is 8 % off."""
SWEEPS = 6
"""Sweeps of a trial: they leave less than a hundredth of a wrong scan's misfit at 1e8 photons a pattern."""
FREE_SWEEPS = 24
"""Sweeps with free unknowns, and of the scan as given beside them."""
SIGNIFICANT = 4.0
"""Least gain in standard errors: in right scans, the largest of the rigid changes gained 2.7."""
STANDING_OUT = 6.0
"""Standard deviations of the misfits of all orientations by which the right one lies below their median. Chosen on one
scan of 3e3 photons a pattern, where the gain over a wrong one is 2.4 to 4 standard errors; not measured on others."""
BETTER = 1.03
"""Least ratio of the misfits, before and after."""
FREE_BETTER = 1.15
"""The same for free unknowns and a background, against the best change without any: they fit a little better whatever
is wrong. A background has to beat the models without positions, which leave room for one, by any factor."""
SPOILT = 2.0
"""Least gain, in standard errors, of the other pixels or frames by what is left out."""
SPOILING = 1.2
"""Least ratio of the misfits of all pixels and of those that are left."""
FEWEST_AT_ALL = 8
"""Patterns below which nothing is tried."""
ROUNDS = 4
"""Times that bad pixels are looked for: beside the worst the others don't show."""
EQUAL = 2.0
"""Standard errors within which the simpler hypothesis is named."""


@dataclass(eq=False)
class Doctors:
    """The trials on some patterns of a scan, and the best of them."""

    scan: Scan
    chosen: np.ndarray
    device: torch.device | str
    given: Trial = field(init=False)
    nulls: list[Trial] = field(init=False)
    cures: list[Trial] = field(init=False, default_factory=list)
    turned: list[Trial] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        given = self.tried(GIVEN)
        assert given is not None  # its positions are drawn together
        self.given = given
        apart = self.scan.n / max(neighbour_distance(self.scan.positions[self.chosen]), 1e-30)
        both = (hypotheses.scale_of(factor, "") for factor in (apart, 0.0))
        self.nulls = [done for done in map(self.tried, both) if done is not None]

    def tried(self, hypothesis: Hypothesis, *, sweeps: int = SWEEPS, few: bool = False) -> Trial | None:
        """A hypothesis on the patterns, or on the few in their middle."""
        chosen = self.chosen[:FEW] if few else self.chosen
        return trial(hypothesis, self.scan, chosen, sweeps=sweeps, device=self.device)

    def try_all(self, candidates: Iterable[Hypothesis]) -> None:
        """Try hypotheses, the simplest first; those that explain the patterns better become cures."""
        self.cures += [each for each in map(self.tried, candidates) if each is not None and self.is_cure(each)]

    def try_lags(self) -> None:
        """Try lags: one becomes a cure if it is better than the scan as given and than the other lags, most of which
        spread the patterns as much."""
        done = [each for each in map(self.tried, hypotheses.lags(self.scan, self.chosen)) if each is not None]
        if len(done) > 1:
            best, *others = sorted(done, key=lambda each: each.misfit)
            if all(is_better(best, than) for than in (self.given, others[len(others) // 2])):
                self.cures.append(best)

    def search(self, candidates: Iterable[Hypothesis], closer: Callable[[Hypothesis], Iterable[Hypothesis]]) -> None:
        """Try hypotheses on few patterns, then the best of them and those around it on all."""
        done = [each for each in (self.tried(hypothesis, few=True) for hypothesis in candidates) if each is not None]
        if done:
            self.try_all(closer(min(done, key=lambda each: each.misfit).hypothesis))

    def is_cure(self, done: Trial) -> bool:
        """Whether a trial explains the patterns significantly better than the given scan and, where it may change how
        much they overlap, than the models without positions."""
        nulls = () if done.hypothesis.cause in hypotheses.TURNS else self.nulls
        return all(is_better(done, than) for than in (self.given, *nulls))

    def try_turns(self) -> None:
        """Try the other orientations: where photon noise is large, one becomes a cure also by standing out."""
        self.turned = [each for each in map(self.tried, hypotheses.orientations(self.scan)) if each is not None]
        everything = [self.given, *self.turned]
        self.cures += [
            each
            for each in self.turned
            if self.is_cure(each)
            or (stands_out(each, everything) and each.gain(self.given) >= EQUAL and each.factor(self.given) >= BETTER)
        ]

    @property
    def is_confirmed(self) -> bool:
        """Whether the patterns are explained significantly better as given than in any other orientation, but for the
        twin, which a probe that is its own twin can't tell apart; and nothing is a cure."""
        twin = Cause.FLIP_XY if hypotheses.is_its_twin(self.scan.probe) else None
        others = [each for each in self.turned if each.hypothesis.cause != twin]
        if self.cures or not others:
            return False
        return all(self.given.gain(each) >= SIGNIFICANT for each in others) or (
            self.given.misfit <= min(each.misfit for each in others) and stands_out(self.given, others)
        )

    @property
    def best(self) -> Trial | None:
        """The cure of least misfit, or the first of those that are equal to it within errors."""
        if not self.cures:
            return None
        least = min(self.cures, key=lambda each: each.misfit)
        return next(each for each in self.cures if each is least or least.gain(each) < EQUAL)


GIVEN = Hypothesis(Cause.NO_RELATION, "the scan as it is", "", as_given)


def is_better(done: Trial, than: Trial, *, factor: float = BETTER) -> bool:
    return done.gain(than) >= SIGNIFICANT and done.factor(than) >= factor


def stands_out(done: Trial, among: list[Trial]) -> bool:
    """Whether a misfit lies below the median of others by `STANDING_OUT` of their standard deviations, by their median
    deviation."""
    misfits = np.array([each.misfit for each in among])
    typical = float(np.median(misfits))
    return typical - done.misfit >= STANDING_OUT * 1.4826 * float(np.median(np.abs(misfits - typical)))


@dataclass(frozen=True)
class Finding:
    """A reason, and how many times better the patterns are explained without its cause."""

    reason: Reason
    factor: float


class Diagnosis(NamedTuple):
    """What the doctors find."""

    reasons: tuple[Reason, ...]  # the likeliest causes, best first
    is_confirmed: bool  # patterns and positions belong together as they are, whatever else is wrong


def diagnose(
    scan: Scan,
    *,
    freed: Unknowns = OBJECT_ONLY,
    device: torch.device | str = "cpu",
    say: Callable[[str], object] = lambda _: None,
) -> Diagnosis:
    """The likeliest causes why the patterns of a scan are not explained, and whether its positions belong to them.

    The probe is in √photons (`Predictor.in_photons`). What the reconstruction has `freed` is no cause. `say` is told
    what is tried. Deterministic; about 10 s of CPU for 128 patterns of 64 x 64.
    """
    if len(scan) < FEWEST_AT_ALL:
        return Diagnosis((), False)
    frames, centre = detector.Frames.of(scan), middle(scan.positions)
    findings = list[Finding]()
    for focus in _focuses(frames, centre):
        scan, found = _of_detector(scan, around(scan, focus), frames, device)
        findings += found
    chosen = around(scan, centre)
    say(f"the doctors try other orientations, lags, units and centres on {len(chosen)} patterns")
    doctors = Doctors(scan, chosen, device)
    is_spoilt = bool(findings)
    findings += _of_geometry(doctors, freed)
    findings.sort(key=lambda finding: -finding.factor)
    first_of = {finding.reason.cause: finding.reason for finding in reversed(findings)}
    reasons = tuple(finding.reason for finding in findings if first_of[finding.reason.cause] is finding.reason)
    return Diagnosis(reasons, doctors.is_confirmed and not is_spoilt)


def middle(positions: np.ndarray) -> int:
    """The pattern nearest to the median position: a far one doesn't move it."""
    return int(np.square(positions - np.median(positions, axis=0)).sum(1).argmin())


def around(scan: Scan, focus: int) -> np.ndarray:
    """The patterns around one, nearest first, but for the first and last frames, where no lag can be tried."""
    count = int(np.clip(PIXELS // scan.n**2, FEWEST, MOST))
    nearest = compact_region(scan.positions, focus, len(scan))
    reach = max(hypotheses.LAGS)
    inside = nearest[(nearest >= reach) & (nearest < len(scan) - reach)]
    return inside[:count] if len(inside) >= FEW else nearest[:count]


def _focuses(frames: detector.Frames, centre: int) -> list[int]:
    """Where the detector is looked at: around the strangest frames, and in the middle."""
    found = []
    if frames.with_rays.any():
        found.append(int(frames.brightest.argmax()))
    if frames.without_light.any():
        strange = np.abs(np.log(np.maximum(frames.light, 1e-30) / max(float(np.median(frames.light)), 1e-30)))
        found.append(int(np.where(frames.without_light, strange, -1).argmax()))
    return [*found, centre]


def _of_detector(
    scan: Scan, chosen: np.ndarray, frames: detector.Frames, device: torch.device | str
) -> tuple[Scan, list[Finding]]:
    """Pixels, values and frames that spoil the others, and the scan without these pixels."""
    found = list[Finding]()
    strange = frames.without_light[chosen]
    if strange.any() and not strange.all():
        found += _light(scan, chosen, frames, device)
        chosen = chosen[~strange]
    for look in (_saturation, _bad_pixels):
        scan, more = look(scan, chosen, device)
        found += more
    return scan, found


def _light(scan: Scan, chosen: np.ndarray, frames: detector.Frames, device: torch.device | str) -> list[Finding]:
    """Whether frames with far less or more light than the others contradict them."""
    strange = frames.without_light
    kept = ~strange[chosen]
    given, others = (trial(GIVEN, scan, some, sweeps=SWEEPS, device=device) for some in (chosen, chosen[kept]))
    assert given is not None and others is not None
    if not _is_spoilt(given.misfits[torch.from_numpy(kept)], others.misfits):
        return []
    ratio = float(np.median(frames.light[strange]) / np.median(frames.light))
    text = (
        f"{strange.sum()} frames (first: {strange.argmax()}) hold {ratio:.2g} x the light of the others and contradict "
        f"them: without these the patterns are explained {others.factor(given):.3g} x better"
    )
    reason = Reason(text, Cause.INTENSITIES, "--intensity-fluctuation, or leave them out")
    return [Finding(reason, others.factor(given))]


def _saturation(scan: Scan, chosen: np.ndarray, device: torch.device | str) -> tuple[Scan, list[Finding]]:
    """Whether pixels that reach a ceiling spoil the others."""
    ceiling = detector.saturated_pixels(scan, chosen)
    if ceiling is None:
        return scan, []
    value, pixels = ceiling
    clean, factor = _without(scan, pixels, chosen, device)
    text = f"the counts of {pixels.sum()} pixels pile up at {value:g}, the largest one: the detector saturates there"
    found = Finding(Reason(text, Cause.SATURATION, "a `mask` in the file that is 0 on these pixels"), factor)
    return clean, [found] if factor > 1 else []


def _bad_pixels(scan: Scan, chosen: np.ndarray, device: torch.device | str) -> tuple[Scan, list[Finding]]:
    """Whether single pixels spoil the others; those that remain are looked for again without the worst."""
    clean, factor, share = scan, 1.0, 0.0
    for _ in range(ROUNDS):
        given = trial(GIVEN, clean, chosen, sweeps=SWEEPS, device=device)
        assert given is not None
        bad = detector.suspect_pixels(given)
        if not bad.any():
            break
        without, gain = _without(clean, bad, chosen, device)
        if gain < SPOILING:
            break
        errors = detector.misfit_map(given)
        clean, factor, share = without, factor * gain, share or float(errors[bad].sum() / errors.sum())
    bad = scan.valid & ~clean.valid
    if not bad.any():
        return scan, []
    where = ", ".join(f"({y}, {x})" for y, x in np.argwhere(bad)[:4]) + (", …" if bad.sum() > 4 else "")
    text = (
        f"{bad.sum()} of {bad.size} pixels spoil the others: {where} (y, x); without them the patterns are explained "
        f"{factor:.3g} x better"
    )
    return clean, [Finding(Reason(text, Cause.BAD_PIXELS, "a `mask` in the file that is 0 on them"), factor)]


def _without(scan: Scan, bad: np.ndarray, chosen: np.ndarray, device: torch.device | str) -> tuple[Scan, float]:
    """The scan without some pixels, and how many times better its patterns are explained, as far as the other pixels
    gain as well: 1 where they don't."""
    clean = detector.masked(scan, bad)
    given, found = (trial(GIVEN, each, chosen, sweeps=SWEEPS, device=device) for each in (scan, clean))
    assert given is not None and found is not None
    is_spoilt = _is_spoilt(misfits_of(given.found, found.region), found.misfits)
    return (clean, found.factor(given)) if is_spoilt else (scan, 1.0)


def _is_spoilt(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether what is left gains by what is left out."""
    better = float(before.mean()) >= BETTER * float(after.mean())
    return better and gain_in_standard_errors(before, after) >= SPOILT


def _of_geometry(doctors: Doctors, freed: Unknowns) -> list[Finding]:
    """The cure that explains the patterns best."""
    scan, chosen = doctors.scan, doctors.chosen
    part = scan.subset(chosen)
    low, high = hypotheses.plausible_scales(part)
    if low <= 1 <= high:
        doctors.try_turns()
        doctors.try_lags()
    doctors.try_all(hypotheses.centre(scan, chosen))
    doctors.try_all(hypotheses.scale_of(factor, way) for factor, way in hypotheses.known_scales(part).items())
    if doctors.best is None:
        doctors.search(hypotheses.scales(part), hypotheses.closer_scales)
        doctors.search(hypotheses.rotations(), hypotheses.closer_rotations)
        doctors.try_all(hypotheses.refocused(scan))
    best = doctors.best
    if best is None or best.hypothesis.cause == Cause.LAG:
        lost = find_lost_frame(scan, device=doctors.device)
        if lost is not None:
            doctors.cures.append(lost.found)
            return [_finding(lost.found, lost.given)]
    free = _free(doctors, freed)
    if free is not None:
        return [_finding(*free)]
    if best is not None:
        return [_finding(best, doctors.given)]
    null = min(doctors.nulls, key=lambda each: each.misfit)
    if doctors.is_confirmed or not is_better(null, doctors.given):
        return []
    alone = "an object for each pattern" if null is doctors.nulls[0] else "one position for all patterns"
    factor = null.factor(doctors.given)
    text = (
        f"{alone} explains the patterns {factor:.3g} x better than the given positions, and no other orientation, lag "
        "or unit helps: the patterns do not belong to these positions"
    )
    reason = Reason(text, Cause.NO_RELATION, "the positions of this scan, in the order of its frames")
    return [Finding(reason, factor)]


def _background(scan: Scan, chosen: np.ndarray) -> Iterator[Hypothesis]:
    """A uniform background as bright as the darkest pixels."""
    level = detector.dark_level(scan, chosen)
    if level > 0:
        yield Hypothesis(
            Cause.BACKGROUND,
            f"a background of {level:.3g} photons per pixel",
            f"patterns without {level:.3g} photons per pixel",
            as_given,
            likelihood=detector.WithBackground(photons=level),
        )


FREE = (
    Hypothesis(
        Cause.INTENSITIES,
        "an intensity of its own for each frame",
        "--intensity-fluctuation",
        as_given,
        Unknowns(intensities="free"),
    ),
    Hypothesis(Cause.PROBE, "another probe", "--probe-update", as_given, Unknowns(probe=True)),
    Hypothesis(
        Cause.POSITIONS,
        "a correction of each position",
        "--position-correction free",
        as_given,
        Unknowns(positions="free"),
    ),
)


def _free(doctors: Doctors, freed: Unknowns) -> tuple[Trial, Trial] | None:
    """Free unknowns, where they explain the patterns much better than anything else does, with what they improve."""
    given = doctors.tried(GIVEN, sweeps=FREE_SWEEPS)
    assert given is not None
    rigid = [given]
    if doctors.best is not None:
        again = doctors.tried(doctors.best.hypothesis, sweeps=FREE_SWEEPS)
        rigid += [again] if again is not None else []
    candidates = (
        *_background(doctors.scan, doctors.chosen),
        *(one for one in FREE if not _are_in(one.unknowns, freed)),
    )
    done = [each for each in (doctors.tried(one, sweeps=FREE_SWEEPS) for one in candidates) if each is not None]
    found = [
        each
        for each in done
        if all(is_better(each, than, factor=FREE_BETTER) for than in rigid)
        and all(is_better(each, than, factor=FREE_BETTER if each.hypothesis in FREE else 1) for than in doctors.nulls)
    ]
    return (min(found, key=lambda each: each.misfit), given) if found else None


def _are_in(unknowns: Unknowns, freed: Unknowns) -> bool:
    """Whether a reconstruction that freed these had what a hypothesis frees."""
    return (
        unknowns.probe <= freed.probe
        and unknowns.has_intensities <= freed.has_intensities
        and (not unknowns.has_positions or freed.positions == unknowns.positions)
    )


def _finding(found: Trial, before: Trial) -> Finding:
    hypothesis, factor = found.hypothesis, found.factor(before)
    text = f"{hypothesis.what} explains the patterns {factor:.3g} x better"
    return Finding(Reason(text, hypothesis.cause, hypothesis.way_out), factor)
