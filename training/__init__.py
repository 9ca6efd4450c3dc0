"""One run of training: ``plan`` decides everything, ``trainer`` sets it up, ``loop`` and ``step`` carry it out. Knows no
evaluation and no report."""
