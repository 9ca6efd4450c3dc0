"""Trainings by other toolkits beside ours. Nothing here is needed by the project; each runs in an environment of its own."""
