"""Code that data sets share. Begin with ``base``, which defines one; ``folders`` and ``voc`` are layouts of several."""
