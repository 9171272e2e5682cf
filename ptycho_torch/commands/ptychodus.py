"""`ptychodus`: a reconstruction in the batch folder of ptychodus."""

from __future__ import annotations

import os

from ptycho_torch.commands.infer import opened
from ptycho_torch.commands.run import run_on
from ptycho_torch.config import PtychodusConfig
from ptycho_torch.data.formats.ptychodus import patterns_and_product
from ptycho_torch.data.formats.writers import write_result_into_product
from ptycho_torch.errors import DataError
from ptycho_torch.types import Reconstruction


def run(config: PtychodusConfig) -> Reconstruction:
    """Reconstruct, and write `product.h5`: the product that was read, with our probe and object on its object's grid.

    The product that was read is kept as `product-in.h5` where it would be overwritten.
    """
    _, product = patterns_and_product(config.test_data)
    if product is None:
        raise DataError(f"{config.test_data}: no product of ptychodus in the folder: save product.h5 into it")
    scan, device = opened(config)
    result = run_on(scan, device, config)
    target = config.output_dir / "product.h5"
    if target.exists() and target.samefile(product):
        kept = product.with_name("product-in.h5")
        os.replace(product, kept)
        product = kept
    write_result_into_product(target, product, scan.positions, result)
    if not config.quiet:
        print(f"product of ptychodus: {target}")
    return result
