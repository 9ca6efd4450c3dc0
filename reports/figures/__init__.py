"""Figures of the report. Pictures of single networks are in ``reports.visual``."""
