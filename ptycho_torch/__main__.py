"""`python -m ptycho_torch`: the same as `ptycho-torch`."""

import sys

from ptycho_torch.cli import main

if __name__ == "__main__":
    sys.exit(main())
