"""Methods, one file each, found by the file's name. ``core.base`` defines a method; docs/add-a-method.md shows how to add one.
Begin with ``simclr.py`` (two crops, one network), ``byol.py`` (a target network) or ``dino.py`` (many crops, a teacher)."""
