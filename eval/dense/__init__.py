"""Predictions for each pixel. Begin with ``task``, segmentation as the trainer sees it: it trains on ``batches`` and ``maps``;
``predict`` and ``examples`` test it. Masks from attention and labels propagated through videos stand by themselves."""
