"""`python -m ptycho_torch.inference`: the same as `ptycho-torch infer`."""

import sys

from ptycho_torch.cli import main

if __name__ == "__main__":
    sys.exit(main(["infer", *sys.argv[1:]]))
