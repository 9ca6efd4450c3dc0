"""Features of frozen backbones, and k-NN on them. Begin with ``extract``, the loop over images; ``cache`` keeps its results, and
``neighbours`` and ``votes`` are k-NN."""
