# %% [markdown]
# # From arrays to an image
# Patterns, positions and a probe in memory, from any instrument: three arrays make a scan.

# %%
import numpy as np

import ptycho_torch as pt

# %% [markdown]
# A simulated experiment stands in for the instrument here. Patterns `[n, N, N]` have the zero frequency at `N // 2`;
# positions `[n, 2]` are (y, x) in object pixels; the probe `[mode, N, N]` is in √photons.

# %%
experiment = pt.simulate(n=32, positions=100, step_px=5, photons=1e5, seed=1)
counts = experiment.counts(np.arange(len(experiment)))

# %%
scan = pt.Scan.from_arrays(counts, experiment.positions, probe=experiment.probe, domain="counts")
result = pt.reconstruct(scan, refine=10)
print(result)

# %% [markdown]
# The object lies on the scan's own grid: the centre of the probe of pattern `j` lies at this index of the object.

# %%
first = result.positions[0] - result.origin
print(f"pattern {result.pattern_indices[0]} was measured around y = {first[0]:.1f}, x = {first[1]:.1f}")
phase = np.angle(result.object)
print(f"phase between {phase.min():.2f} and {phase.max():.2f} rad, misfit R {result.scores['misfit_R']:.4f}")

# %%
result.save("from_arrays.h5")
figure = result.plot()
