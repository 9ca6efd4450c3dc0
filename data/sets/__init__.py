"""Data sets, one file each, found by the file's name. ``core.base`` says what one is; docs/add-a-data-set.md shows a whole
one."""
