"""Statistics that evaluations and reports share: bootstrap intervals, average precision, confusion matrices, retrieval mAP."""
