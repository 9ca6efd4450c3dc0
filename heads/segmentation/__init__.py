"""Segmentation heads, one file each, found by the file's name: backbone maps in, class logits out. ``core.base`` says what a
head is."""
