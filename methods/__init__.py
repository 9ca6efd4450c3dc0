"""Methods, one file each, found by the file's name. ``core.base`` says what a method is; docs/add-a-method.md shows a whole
one. Begin with ``simclr.py`` (two crops, one network), ``byol.py`` (a target network) or ``dino.py`` (many crops, teacher and
student)."""
