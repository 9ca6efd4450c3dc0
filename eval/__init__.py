"""Evaluations, one file each, found by the file's name. ``core.base`` defines them; begin with ``knn``."""
