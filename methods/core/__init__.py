"""Parts of methods: the base class and a step's input and output (``base``), options of the crops (``augmentation``,
``multi_crop``), slow copies of a network (``teacher``), learning rates by layer (``layer_rates``)."""
