"""What data sets share. Begin with ``base``: what a data set is. ``folders`` and ``voc`` are layouts of several."""
