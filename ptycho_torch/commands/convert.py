"""`convert`: a scan, with its reconstruction, in another program's format."""

from __future__ import annotations

import sys
from pathlib import Path

from ptycho_torch.commands.infer import scan_of
from ptycho_torch.config import ConvertConfig
from ptycho_torch.data.formats.writers import left_out, write_scan
from ptycho_torch.types import Reconstruction


def run(output: str, config: ConvertConfig) -> Path:
    """Write the scan as `output`, in the format that its name ends with."""
    scan = scan_of(config)
    result = None if config.result is None else Reconstruction.from_file(config.result)
    kind = write_scan(Path(output), scan, result)
    if lost := left_out(Path(output), scan, result):
        print(f"warning: {output}: its format has no place for the {' and the '.join(lost)}", file=sys.stderr)
    if not config.quiet:
        for line in scan.notes:
            print(line)
        print(f"{len(scan)} patterns of {scan.n} x {scan.n} pixels written as {kind}: {output}")
    return Path(output)
