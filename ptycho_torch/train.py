"""`python -m ptycho_torch.train`: the same as `ptycho-torch train`."""

import sys

from ptycho_torch.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
