"""What every other folder may use: errors, the registry, files, the process group. Imports nothing of ours, and no torch
except in ``common.distributed``."""
