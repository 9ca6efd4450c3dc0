"""Predictions for each pixel: feature maps, the segmentation task and its scores, attention masks, propagation through
videos."""
