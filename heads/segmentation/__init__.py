"""Segmentation heads: backbone maps in, class logits out."""
