"""Crops. ``spec`` defines a view, ``plan`` turns random numbers into boxes and colours, ``maker`` makes a batch: on a CPU by
the compiled loops of ``cpu``, on an accelerator by ``tensors`` and ``colour``. ``central`` makes evaluation images, ``dense``
images with their masks."""
