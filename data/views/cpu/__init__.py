"""The operations of ``data.views.tensors`` and ``data.views.colour`` on a CPU, one crop after the other, in loops compiled by
numba: begin with ``crops``. A crop's rows stay in the cache of one core. Loops run along a row without branches, so they become
vector instructions. Levels are float32, and whole before the jitter and before and after the blur."""
