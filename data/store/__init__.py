"""From image files to pixels. ``listing`` says which images there are, ``decode`` reads one, ``build`` packs all of them once
into a memory-mapped file (``store``), and ``stream`` decodes them anew where that file does not fit."""
