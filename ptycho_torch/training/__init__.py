"""From a scan to a bundle: `run.train`, and the thin adapter to the trainer."""
