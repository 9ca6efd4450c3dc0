"""Predictions for each pixel. ``task`` is segmentation as the trainer sees it, ``batches`` and ``maps`` are what it trains on,
``predict`` and ``examples`` what it predicts; masks from attention, and labels propagated through videos, stand by themselves."""
