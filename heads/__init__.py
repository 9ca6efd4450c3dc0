"""Networks on a backbone: the MLP of projection heads and predictors (``mlp``), DINO's head (``dino``), segmentation heads
(``segmentation``). docs/add-a-head.md shows a whole one."""
