"""The HTML page: ``page`` puts it together, the other files make its parts."""
