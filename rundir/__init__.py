"""What a run leaves on disk: the only reader and the only writer of each file.

``paths`` names the files, ``read`` gathers a whole run for a report; ``options``, ``log``, ``results``, ``provenance``,
``correlation``, ``failure`` and ``lock`` each hold one kind of file. Nothing here imports torch.
"""
