"""Files that belong together: the other half of a pair, and tables of positions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from ptycho_torch.errors import DataError
from ptycho_torch.units import LENGTHS, unit_of

MOST_FILES = 512
"""Of a folder that are looked at."""
TABLES = (".csv", ".txt", ".dat")
LARGEST_TABLE = 2**28
AXIS = re.compile(r"(?i)^(?:.*[_ ])?([xy])(?:[_ ]?(?:pos(?:ition)?s?|motor|coords?))?[_ \[(]*([^\])]*)[\])]*$")
"""The name of a column of positions: its axis, and its unit where it has one."""


def partner(
    path: Path,
    is_one: Callable[[Path], bool],
    *,
    swaps: Sequence[tuple[str, str]],
    what: str,
    names: Sequence[str] = (),
) -> Path | None:
    """The file beside this one (or in this folder) of which `is_one` is true; None where there is none.

    Of several, that with the same name but for one of the `swaps`, then one of these `names`. DataError where that
    leaves a choice.
    """
    folder = path if path.is_dir() else path.parent
    found = [file for file in sorted(folder.iterdir())[:MOST_FILES] if file.is_file() and file != path]
    for old, new in () if path.is_dir() else swaps:
        twin = path.with_name(path.name.replace(old, new))
        if old in path.name and twin in found and is_one(twin):
            return twin
    for name in names:
        if folder / name in found and is_one(folder / name):
            return folder / name
    fitting = [file for file in found if is_one(file)]
    if len(fitting) > 1:
        raise DataError(
            f"{path}: {what} may be in {', '.join(file.name for file in fitting[:4])}: leave one of them in the folder"
        )
    return fitting[0] if fitting else None


def halves(
    path: Path,
    is_patterns: Callable[[Path], bool],
    is_other: Callable[[Path], bool],
    *,
    swaps: Sequence[tuple[str, str]] = (),
    names: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> tuple[Path | None, Path | None]:
    """The file of the patterns and that of the positions, from the name of either or of their folder.

    None for one that is not there; `swaps` and the two `names` are those of `partner`.
    """

    def half(is_one: Callable[[Path], bool], what: str, names: Sequence[str]) -> Path | None:
        if path.is_file() and is_one(path):
            return path
        return partner(path, is_one, swaps=swaps, what=what, names=names)

    return half(is_patterns, "its patterns", names[0]), half(is_other, "its positions", names[1])


def table(path: Path) -> tuple[np.ndarray, list[str]]:
    """Numbers `[rows, columns]` of a text file and the words of its first line where these are no numbers."""
    if path.stat().st_size > LARGEST_TABLE:
        raise DataError(f"{path}: {path.stat().st_size / 1e6:.3g} MB are no table of positions")
    try:
        lines = path.read_text(errors="replace").lstrip("\ufeff").splitlines()
    except OSError as error:
        raise DataError(f"{path}: it can't be read ({error.strerror})") from None
    lines = [line.strip() for line in lines if line.strip()]
    head = list[str]()
    while lines and not _numbers(lines[0]):
        head = _words(lines.pop(0).lstrip("#; "))
    rows = [_numbers(line) for line in lines]
    widths = {len(row or ()) for row in rows}
    if not rows or len(widths) != 1 or 0 in widths:
        raise DataError(f"{path}: it is no table of numbers, rows of as many columns are needed")
    return np.array(rows, np.float64), head


def _words(line: str) -> list[str]:
    return [word.strip(" \"'") for word in re.split(r"[,;\t]|\s+", line) if word.strip()]


def _numbers(line: str) -> list[float] | None:
    try:
        return [float(word) for word in _words(line)]
    except ValueError:
        return None


def positions_in(path: Path) -> tuple[np.ndarray, str, np.ndarray | None, str]:
    """Positions `[k, 2]` (y, x) in a table, their unit, the index of each where a column has it, and what was taken.

    Named columns are known by their names (`x_um`, `y [nm]`, `point`); without names, a CSV holds y, x and other text
    x, y, as ptychodus writes them: lengths in m where they span less than a centimetre, or else object pixels.
    """
    values, head = table(path)
    places: dict[str, int] = {}
    units = set[str]()
    for column, word in enumerate(head):
        match = AXIS.match(word)
        if match and match[1].lower() not in places:
            places[match[1].lower()] = column
            units |= {match[2]} - {""}
    indexes = None
    if len(head) == values.shape[1] and {"x", "y"} <= set(places):
        if len(units) > 1:
            raise DataError(f"{path}: its columns are in {' and '.join(sorted(units))}: one unit is needed")
        y, x = values[:, places["y"]], values[:, places["x"]]
        rest = [k for k, word in enumerate(head) if word.lower() in ("point", "index", "frame", "n", "number", "id")]
        if rest and np.array_equal(values[:, rest[0]], np.rint(values[:, rest[0]])):
            indexes = values[:, rest[0]].astype(np.int64)
        unit, how = (units.pop() if units else ""), f"columns {head[places['y']]} and {head[places['x']]}"
    elif values.shape[1] == 2:
        is_csv = path.suffix.lower() == ".csv"
        y, x = (values[:, 0], values[:, 1]) if is_csv else (values[:, 1], values[:, 0])
        unit, how = "", f"columns {'y, x' if is_csv else 'x, y'}"
    else:
        raise DataError(
            f"{path}: it has {values.shape[1]} columns without the names x and y: name them in its first line"
        )
    if not unit:
        unit = "m" if max(np.ptp(y), np.ptp(x)) < 1e-2 else "px"
        how += f", taken as {unit}"
    elif unit != "px":
        factor = unit_of(unit, LENGTHS)
        if factor is None:
            raise DataError(f"{path}: positions are in {unit!r}: one of px, {', '.join(LENGTHS)} is needed")
        y, x, unit = y * factor, x * factor, "m"
    return np.stack([y, x], axis=1), unit, indexes, how


def _tables_beside(path: Path) -> Iterator[tuple[Path, np.ndarray | None]]:
    """The files of this folder that may be tables, with their numbers; None where they hold other things."""
    folder = path if path.is_dir() else path.parent
    for file in sorted(folder.iterdir())[:MOST_FILES]:
        if file.suffix.lower() in TABLES and file.is_file():
            try:
                yield file, table(file)[0]
            except DataError:
                yield file, None


def tables_in_words(path: Path) -> str:
    """How many rows the tables of this folder have; or nothing."""
    return ", ".join(
        f"{file.name} is no table of numbers" if values is None else f"{file.name} has {len(values)} rows"
        for file, values in islice(_tables_beside(path), 3)
    )


def table_beside(path: Path, n: int) -> Path | None:
    """The one table of this folder that has a row for each of n frames; DataError where several have."""
    fitting = [
        file
        for file, values in _tables_beside(path)
        if values is not None and len(values) == n and values.shape[1] >= 2
    ]
    named = [file for file in fitting if path.stem.removesuffix("_master") in file.stem]
    fitting = named if len(named) == 1 else fitting
    if len(fitting) > 1:
        raise DataError(
            f"{path}: positions may be in {', '.join(f.name for f in fitting[:4])}: give one with --positions"
        )
    return fitting[0] if fitting else None
