"""Plain PyTorch versions of what is published, written from the recipes and kept simple, to be timed beside ours."""
