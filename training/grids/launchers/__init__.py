"""Where a grid's cells run: one file a launcher. Each has one function,

    launch(states, command, plugins, show)

which runs every cell whose status is ``waiting`` and tells ``show`` of each change. A cell's results come through its directory
alone, so that whatever dies, the same command continues. See ``cells.py`` for the rest, ``config.py`` for the options.
"""
