"""Images in. Begin with ``datasets``, which opens a data set by its name; ``sets`` has a file for each. ``store`` decodes and
keeps images, ``pairing`` chooses the image of each view, ``views`` makes the crops, ``label_subset`` chooses labels."""
