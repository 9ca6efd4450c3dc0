"""Pictures of what networks do: one file a picture, found by its name. Each file holds, from top to bottom, the picture's
options (``run.py visualize NAME``), how its numbers are computed, and how they are drawn. None imports torch when it is
imported, only where it computes, so that a report can draw without torch. What the pictures share is in ``core/``; begin with
``core/base.py``, or with docs/add-a-picture.md."""
