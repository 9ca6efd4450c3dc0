"""Features of frozen backbones and how near they are to each other. ``extract`` is the loop over images, ``cache`` keeps what
it computes, ``files`` reads images that lie in no store, ``neighbours`` and ``votes`` are k-NN."""
