"""Does training ever end in a flat object? Ten seeds, N = 64 and 128, both precisions, short runs.

    python benchmarks/collapse.py [--seeds 10]

Each run trains for 32 steps on a simulated scan (another object for each seed) and reconstructs it; printed are the
Pearson correlations of amplitude and phase with the truth, and at the end the lowest of each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path

from common import command, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = range(parser.parse_args().seeds)
    worst = {"amplitude_pearson": 1.0, "phase_pearson": 1.0}
    for seed, n, precision in itertools.product(seeds, (64, 128), ("32-true", "bf16-mixed")):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            scan, model, results = folder / "scan.npz", folder / "model", folder / "results"
            command("simulate", "-o", scan, "-N", n, "--step", 7.6 * n / 64, "--positions", 196, "--seed", seed)
            size = ["--n_images", 64, "--batch_size", 4, "--max_epochs", 2, "--seed", seed, "--precision", precision]
            command("train", "--train_data_file", scan, "--test_data_file", scan, "--output_dir", model, *size)
            words = ["--model_path", model, "--test_data", scan, "--output_dir", results, "--precision", precision]
            command("infer", *words)
            scores = json.loads((results / "metrics.json").read_text())["reference"]
        found = {name: scores[name] for name in worst}
        worst = {name: min(worst[name], found[name]) for name in worst}
        report({f"seed {seed}, N {n}, {precision}": found})
    report({"lowest": worst})


if __name__ == "__main__":
    main()
