"""Segmentation heads, one file each, found by the file's name: backbone maps in, class logits out. ``core.base`` defines a head.
Begin with ``linear.py``; docs/add-a-head.md shows how to add one."""
