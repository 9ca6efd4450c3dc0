"""Data sets, one file each. Begin with ``core.base``, which defines a data set; docs/add-a-data-set.md shows a whole one."""
