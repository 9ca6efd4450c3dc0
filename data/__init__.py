"""Images in. Begin with ``datasets``, which opens a data set by its name; ``sets`` has a file for each.

``store`` decodes images and keeps them, ``pairing`` says which image each view comes from, ``views`` makes the crops.
``label_subset`` says which labels may be used where only a part may.
"""
