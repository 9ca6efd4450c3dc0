"""The figures that reports draw: of a comparison, of training, of segmentation. ``look`` is what they share."""
