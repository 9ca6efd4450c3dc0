"""Weights in and out. Begin with ``source``, which reads whatever a user names; ``weights`` fits it to a backbone, ``released``
knows published files by name, and ``authors`` and ``export`` write the layouts of other programs."""
