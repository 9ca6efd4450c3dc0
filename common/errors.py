"""Errors that a user can act on. ``run.py`` prints their one sentence (what, where, what to do) and exits with their status."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave is wrong or missing: a file, a mask, a checkpoint. Exit status 1."""

    exit_status = 1


class UsageError(UserError):
    """The command line or a configuration is wrong. Exit status 2, as argparse has it."""

    exit_status = 2


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not known, naming the nearest known one.

    >>> str(unknown_name("backbone", "vit_s9", ["vit_s8", "resnet50"]))
    "unknown backbone 'vit_s9'; did you mean vit_s8? (known: resnet50, vit_s8)"
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}; {hint}(known: {', '.join(known)})")
