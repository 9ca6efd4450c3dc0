"""Launchers run a grid's cells, one file for each. Its function ``launch(states, command, show)`` runs every cell whose status is
``waiting`` and calls ``show`` after each change. Results come only through a cell's directory, so that the same command continues
after any failure. Begin with ``cells.py``; the options are in ``grids/options.py``.
"""
