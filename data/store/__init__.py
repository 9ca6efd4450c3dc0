"""From image files to pixels. Begin with ``open``. ``listing`` names the images, ``decode`` reads one, ``build`` packs all
into a memory-mapped file, which ``index`` describes and ``store`` reads. ``stream`` keeps no pixels."""
