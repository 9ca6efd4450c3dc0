"""Grids of runs: ``grid`` makes the cells, ``checks`` says what would fail, ``estimate`` how long, ``launchers`` run them."""
