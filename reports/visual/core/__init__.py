"""Shared by pictures: begin with ``base`` (a picture's interface) and ``style`` (its look). ``images``, ``network``, ``runs`` and
``video`` load what it shows."""
