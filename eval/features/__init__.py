"""Features of frozen backbones and how near they are to each other. Begin with ``extract``, the loop over images; ``cache`` keeps
what it computes, ``neighbours`` and ``votes`` are k-NN."""
