"""Errors that a user can act on: ``run.py`` prints their sentence and exits with their status."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

from common.names import short


class UserError(Exception):
    """Something the user gave is wrong or missing, such as a checkpoint."""

    exit_status = 1


class UsageError(UserError):
    """The command line or a configuration is wrong; argparse's exit status."""

    exit_status = 2


#: An error lists at most so many names.
MOST_NAMES = 24


def unknown_name(kind: str, name: str, names: Iterable[str]) -> UsageError:
    """Make the error for a name that is none of ``names``, which it lists, or the nearest three where there are many.

    >>> str(unknown_name("backbone", "vit_s9", ["vit_s8", "resnet50"]))
    "unknown backbone 'vit_s9'; did you mean vit_s8? (known: resnet50, vit_s8)"
    """
    names = sorted(names)
    if len(names) > MOST_NAMES:
        nearest, *others = difflib.get_close_matches(name, names, n=3, cutoff=0)
        return UsageError(
            f"unknown {kind} {name!r}; did you mean {nearest}? (next: {', '.join(others)}; {len(names)} are known)"
        )
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}; {hint}(known: {', '.join(names)})")


#: RuntimeError messages that mean out of memory. Torch's CUDA allocator raises OutOfMemoryError instead.
OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch, on any device, ran out of memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in OUT_OF_MEMORY)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or else the name of its class; of an error of the system its file and its reason.

    >>> first_line(ValueError("no number\\nof images")), first_line(OSError(28, "No space left on device", "a.png"))
    ('no number', 'a.png: No space left on device')
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def why(error: BaseException) -> str:
    """The reason in an error's message, in a line, without the number and the file that the system's errors have.

    >>> why(OSError(13, "Permission denied", "runs/a/log.jsonl"))
    'Permission denied'
    """
    return short(getattr(error, "strerror", None) or first_line(error), 200)


def unreadable(error: Exception) -> str:
    """Say of a file why it cannot be read."""
    return f"cannot be read ({why(error)})"


def explain(error: BaseException) -> UserError | None:
    """Advise the user about an error of the disk or the memory; None for any other, which is a fault of the program.

    >>> str(explain(OSError(28, "No space left on device", "runs/a/log.jsonl")))
    'runs/a/log.jsonl: no space left on device; free some, and the same command continues: what was written before is intact'
    """
    if is_out_of_memory(error):
        return UserError(f"out of memory ({first_line(error)}); give smaller batches or images")
    if not isinstance(error, OSError) or error.errno is None:
        return None
    file = f"{error.filename}: " if error.filename is not None else ""
    problem = error.strerror[:1].lower() + error.strerror[1:]
    intact = "the same command continues: what was written before is intact"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = f"free some, and {intact}"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = "give a folder that may be written to, such as by --out"
    else:
        advice = f"once that is mended, {intact}"
    return UserError(f"{file}{problem}; {advice}")
