"""Errors, options, files, registries and the process group, for every other folder. Only ``distributed`` imports torch."""
