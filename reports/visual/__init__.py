"""Pictures of networks, one file for each (``run.py visualize NAME``): its options, then how it computes numbers, then how it
draws them. Files import torch only where they compute, so reports draw without it. ``core/`` is shared; begin with
``core/base.py`` or docs/add-a-picture.md."""
