"""Crops on a CPU, one by one, in loops compiled by numba: begin with ``crops``, which ``data.views.maker`` calls. The
operations are those of ``data.views.tensors`` and ``data.views.colour``, which say what of PIL each follows. A crop's rows stay
in the cache of one core. Each loop runs along a row without a branch for a pixel, so the compiler makes vector instructions of
it. Levels are float32; before the jitter, and before and after the blur, they are whole."""
