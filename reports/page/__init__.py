"""The page of a report: begin with ``page``, which puts together the parts that the other files make."""
