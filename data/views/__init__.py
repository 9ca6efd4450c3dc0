"""Crops. ``spec`` says what a view is, ``plan`` turns random numbers into boxes and colours, ``maker`` makes a batch: by
``cpu``'s compiled loops or, on an accelerator, by ``tensors``. ``central`` makes evaluation images, ``dense`` crops with
masks."""
