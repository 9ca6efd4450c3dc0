"""Evaluations, one file each, found by the file's name. ``core.base`` says what one is; begin with ``knn``."""
