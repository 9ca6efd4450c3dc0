"""Grids of runs: ``grid`` makes the cells, ``estimate`` estimates their time, ``launchers`` run them."""
