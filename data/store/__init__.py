"""From image files to pixels. Begin with ``open``. ``listing`` names the images, and ``decode`` reads one.

``build`` packs all of them once into a memory-mapped file, which ``store`` reads; ``stream`` decodes them anew where that file does
not fit. ``index`` describes a finished store.
"""
