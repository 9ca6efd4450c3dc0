"""The machine that a training runs on: ``devices`` (device, precision, process group), ``sharding``, ``batchnorm`` and
``compilation`` of networks, ``uncompiled`` starts, ``interrupt`` (signals), and ``environment``, which describes the machine."""
