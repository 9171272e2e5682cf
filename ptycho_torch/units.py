"""Lengths, energies and angles with units, as files and people write them, in SI."""

from __future__ import annotations

import math
import re

from ptycho_torch.errors import UsageError

LENGTHS = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "nm": 1e-9, "A": 1e-10, "pm": 1e-12, "cm": 1e-2}
POSITION_UNITS = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "nm": 1e-9, "angstrom": 1e-10}
"""Lengths in which positions may be, beside object pixels, px."""
ENERGIES = {"eV": 1.0, "keV": 1e3, "MeV": 1e6, "GeV": 1e9, "J": 1 / 1.602176634e-19}
"""In eV."""
VOLTAGES = {"V": 1.0, "kV": 1e3, "MV": 1e6}
ANGLES = {"rad": 1.0, "mrad": 1e-3, "deg": math.pi / 180}
INVERSE_LENGTHS = {"1/A": 1e10, "1/nm": 1e9, "1/m": 1.0}
SPELLINGS = {
    "µm": "um",
    "μm": "um",
    "micron": "um",
    "microns": "um",
    "micrometer": "um",
    "micrometers": "um",
    "millimeter": "mm",
    "nanometer": "nm",
    "nanometers": "nm",
    "meter": "m",
    "meters": "m",
    "metre": "m",
    "metres": "m",
    "å": "A",
    "ångström": "A",
    "ang": "A",
    "angstrom": "A",
    "angstroms": "A",
    "a": "A",
    "ev": "eV",
    "kev": "keV",
    "gev": "GeV",
    "mev": "MeV",
    "j": "J",
    "joule": "J",
    "v": "V",
    "kv": "kV",
    "°": "deg",
    "degree": "deg",
    "degrees": "deg",
    "radian": "rad",
    "radians": "rad",
    "a^-1": "1/A",
    "a-1": "1/A",
    "å^-1": "1/A",
    "1/a": "1/A",
    "1/å": "1/A",
    "1/angstrom": "1/A",
    "angstrom^-1": "1/A",
    "nm^-1": "1/nm",
    "1/nm": "1/nm",
    "m^-1": "1/m",
    "n_m": "nm",
}
NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*")


def unit_of(word: str, units: dict[str, float]) -> float | None:
    """What a unit is in SI (energies: in eV), however it is written; None for another one."""
    plain = re.sub(r"\s+", "", word.strip().strip("[]"))
    plain = f"1{plain}" if plain.startswith("/") else plain
    for name in (plain, SPELLINGS.get(plain, ""), SPELLINGS.get(plain.lower(), "")):
        if name in units:
            return units[name]
    return None


def degrees_of(rotation: str) -> float:
    """What `--rotation` states, "-34deg" or "10mrad", in degrees; UsageError without a unit."""
    return math.degrees(quantity(rotation, ANGLES, what="--rotation", example="--rotation -34deg"))


def quantity(text: str, units: dict[str, float], *, what: str, example: str) -> float:
    """A number with its unit, "8keV" or "-34 deg", in SI (energies: in eV); UsageError without one of these units."""
    match = NUMBER.fullmatch(text)
    factor = unit_of(match[2], units) if match and match[2] else None
    if match is None or factor is None or not math.isfinite(float(match[1])):
        raise UsageError(
            f"{what} is {text!r}: a number with one of the units {', '.join(units)} is needed, as {example}"
        )
    return float(match[1]) * factor
