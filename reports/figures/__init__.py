"""The figures of a report: ``comparison``, ``training``, ``segmentation``; they share ``look``."""
