"""The base class of segmentation heads, and their losses."""
