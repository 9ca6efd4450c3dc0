"""Grids of runs: ``grid`` makes the cells, ``estimate`` says how long they take, ``launchers`` run them."""
