"""Options that contradict each other, for settings and functions alike."""

from __future__ import annotations

from collections.abc import Callable


def of_a_refinement(
    *,
    refine: int | None,
    probe_update: bool,
    modes: int | None,
    position_correction: str,
    intensity_fluctuation: bool,
    denoise: bool,
    regulariser: bool = False,
    spelled: Callable[[str], str] = str,
) -> str | None:
    """What contradicts what, in a sentence, or None; `spelled` turns the name of an option into what its user wrote."""
    free = {
        "probe_update": probe_update,
        "modes": modes is not None,
        "position_correction": position_correction != "none",
        "intensity_fluctuation": intensity_fluctuation,
        "denoise": denoise,
        "regulariser": regulariser,
    }
    asked = [spelled(name) for name, wanted in free.items() if wanted]
    if asked and refine is None:
        needed = spelled("refine")
        return f"{', '.join(asked)} without {needed}: only a refinement changes these; add {needed}"
    if modes is not None and not probe_update:
        needed = spelled("probe_update")
        return f"{spelled('modes')} needs {needed}: added modes are only a first guess"
    return None
