"""One run of training: ``plan`` decides everything, ``trainer`` sets it up, ``loop`` and ``step`` carry it out. No module here
imports an evaluation or a report."""
