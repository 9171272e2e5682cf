# %% [markdown]
# # From a scan file to an image, with plots
# Replace the path by that of your own scan. If there is no such file, a scan is simulated.

# %%
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import ptycho_torch as pt
from ptycho_torch.simulation import simulate_scan

path = Path("scan.npz")
if not path.exists():
    simulate_scan(n=32, positions=100, step_px=5, probe_kind="zone-plate", seed=2).save(path)

# %%
scan = pt.read_scan(path)
print("\n".join(scan.describe()))

# %% [markdown]
# A measured pattern, and the positions.

# %%
figure = Figure(figsize=(8, 3.5), layout="constrained")
pattern, positions = figure.subplots(1, 2)
pattern.imshow(np.log1p(scan.counts([0])[0]), cmap="magma")
pattern.set(title="log(1 + counts) of pattern 0", xticks=[], yticks=[])
positions.plot(scan.positions[:, 1], scan.positions[:, 0], ".", markersize=4)
positions.set(title="positions", xlabel="x [px]", ylabel="y [px]", aspect="equal")
positions.invert_yaxis()
figure.savefig("scan.png")

# %% [markdown]
# The pretrained network gives the initial object, maximum likelihood refines object and probe. `on_sweep` sees every
# sweep; a run ends early when it returns True.

# %%
held_out = []


def watch(progress) -> bool:
    """Record the held-out misfit, and stop when a sweep decreases it by less than 0.1 %."""
    held_out.append(progress.held_out)
    return len(held_out) > 5 and held_out[-2] - held_out[-1] < 1e-3 * held_out[-2]


result = pt.reconstruct(scan, refine=30, probe_update=True, on_sweep=watch)
print(f"{len(held_out)} sweeps, held-out misfit {held_out[-1]:.4g} per pixel (lower is better)")

# %%
result.plot().savefig("reconstruction.png")
result.save("reconstruction.npz")
print(result)
