"""What grows with the number of images, measured on small sets. Begin with ``__main__``; ``cases`` has what is measured."""
