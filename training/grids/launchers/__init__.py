"""Where a grid's cells run: one file a launcher. Each has one function,

    launch(states, command, show)

which runs every cell whose status is ``waiting`` and tells ``show`` of each change. A cell's results come through its directory
alone, so that whatever dies, the same command continues. Begin with ``cells.py``; the options are in ``grids/options.py``.
"""
