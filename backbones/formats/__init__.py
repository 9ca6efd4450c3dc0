"""Weights in and out. ``source`` finds and reads whatever a user names; ``weights`` fits it to a backbone; ``released`` knows
the names of published files; ``authors`` and ``export`` write the layouts of other programs."""
