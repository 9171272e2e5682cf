"""Scan files: one module for each format, and `read_scan`, which selects the one for a file."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ptycho_torch.data.formats import npz
from ptycho_torch.data.scan import Scan
from ptycho_torch.errors import DataError
from ptycho_torch.types import Domain


class ScanFormat(Protocol):
    """The interface of a format module."""

    name: str

    def recognises(self, path: Path) -> bool:
        """Whether an existing file is of this format, by its name or its first bytes."""

    def read(self, path: Path, *, domain: Domain | None = None, trust_detector: bool = False) -> Scan:
        """The scan in the file, checked; DataError in one line when it can't be used."""


FORMATS: tuple[ScanFormat, ...] = (npz,)


def read_scan(path: str | Path, *, domain: Domain | None = None, trust_detector: bool = False) -> Scan:
    """The scan in a file of any known format; `domain` overrides what the file declares or a test would find.

    With `trust_detector`, all pixels, values and frames that the file does not mask are used as they are.

    Raises DataError, in one line, for a file that is missing, unknown, damaged or holds no usable scan.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: {'it is a folder, a scan file is needed' if path.is_dir() else 'no such file'}")
    try:
        known = next((form for form in FORMATS if form.recognises(path)), None)
        if known is not None:
            return known.read(path, domain=domain, trust_detector=trust_detector)
    except OSError as error:
        raise DataError(f"{path}: it can't be read ({error.strerror or error})") from None
    names = ", ".join(form.name for form in FORMATS)
    raise DataError(f"{path}: not a scan file of a known format: {names} can be read")
