"""Run directories as they are met: what is seen are the names of readable runs, and of damaged files or whole runs."""

import os

from rundir.read import read_runs
from tests.reports.factory import write_run


def look(folder):
    runs, problems = read_runs([folder])
    said = " ".join(problem.what for problem in problems)
    return [run.name for run in runs], bool(problems) and bool(said)


def run(change=None):
    """A whole run "good", and one that ``change(directory)`` has damaged."""

    def make(folder):
        write_run(folder / "good", "dino", images=10)
        if change is not None:
            write_run(folder / "odd", "dino", images=10)
            change(folder / "odd")
        return folder

    return make


def config(text):
    return lambda odd: (odd / "config.yaml").write_text(text)


def added(line):
    return lambda odd: (odd / "config.yaml").write_text((odd / "config.yaml").read_text() + line)


def piped(name):
    def change(odd):
        (odd / name).unlink()
        os.mkfifo(odd / name)

    return change


def results(content):
    return lambda odd: (odd / "results/knn.json").write_bytes(content)


ONE, BOTH = ["good"], ["good", "odd"]
ENTRIES = {
    "whole": (run(), (ONE, False)),
    "config is a list": (run(config("- 1")), (ONE, True)),
    "config is empty": (run(config("")), (ONE, True)),
    "config nests too deeply": (run(config("[" * 5000)), (ONE, True)),
    "config names Python": (run(config("a: !!python/object/apply:os.mkdir [harm]")), (ONE, True)),
    "config is a pipe": (run(piped("config.yaml")), (ONE, True)),
    "results cut short": (run(results(b'[{"evaluation": "knn"')), (BOTH, True)),
    "results are no text": (run(results(bytes(range(256)))), (BOTH, True)),
    "results are a pipe": (run(piped("results/knn.json")), (BOTH, True)),
    "no run": (lambda folder: folder / "nothing", ([], True)),
}
