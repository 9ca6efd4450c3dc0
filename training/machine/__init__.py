"""Where and how a training computes: ``devices`` (device, precision, process group), ``sharding``, ``batchnorm`` and
``compilation`` of its networks; ``interrupt`` and ``failures`` end it well; ``environment`` describes this machine."""
