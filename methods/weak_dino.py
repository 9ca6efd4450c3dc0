"""Weakly supervised DINO: DINO whose crops come from several images of one label (reference: jneyzaguirre1/dino_evaluation).

Global crop 1 is of the anchor image; global crop 2 and each local crop are of other images with its label. This is DINO with
another recipe: ``--label_fraction`` sets for how many images labels may be used, ``--paired_views`` which views come from other
images.
"""

from __future__ import annotations

from methods.core.base import METHODS
from methods.dino import DINO


@METHODS.register("weak_dino")
class WeakDINO(DINO):
    title = "Weak DINO"
    citation = "jneyzaguirre1/dino_evaluation"
    differs = ("of a label with fewer images than crops, images come again (the reference gives fewer crops)",)
    recipe = {**DINO.recipe, "pairing": "same_label"}
