"""The bundle `wts.h5.zip`: a trained model as one file that can be read without trusting its writer."""

from ptycho_torch.bundle.contents import FORMAT, VERSION, Bundle, check_destination, read_bundle, write_bundle
from ptycho_torch.bundle.inspection import inspect_bundle, verify_bundle

__all__ = [
    "FORMAT",
    "VERSION",
    "Bundle",
    "check_destination",
    "inspect_bundle",
    "read_bundle",
    "verify_bundle",
    "write_bundle",
]
