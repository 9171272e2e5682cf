"""`bundle inspect | verify`: the content of a bundle, and whether it is whole."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ptycho_torch.bundle import inspect_bundle, verify_bundle
from ptycho_torch.bundle.contents import DIGEST_NAME
from ptycho_torch.config import BundleConfig


def run(action: str, path: str, settings: BundleConfig | None = None) -> None:
    """The command `bundle`: prints what `inspect` finds as JSON, or one line when `verify` finds everything whole."""
    if action == "inspect":
        print(json.dumps(inspect_bundle(path), indent=2, default=_shown))
        return
    facts = verify_bundle(path)
    count, digest_file = len(facts["members"]), facts["digest_file"]
    print(f"{facts['path']}: whole; sha256 {facts['sha256']}; {count} members agree; {DIGEST_NAME} {digest_file}")


def _shown(value: Any) -> str:
    """A value without a JSON form, as text."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} bytes"
    return str(value)
