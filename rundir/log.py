"""The log of a run, ``log.jsonl``: a JSON record a line. Kinds: start, step, knn, diagnostics, warning, extend, end."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.files import append_json_line, archive_damage, opened, parse_json_lines, read_json_lines, write_text
from rundir.paths import LOG, RESULTS, has_checkpoint, last_checkpoint

#: Of the last record, as ``append_record`` writes it; logs may have a million records before it.
_END = b'"kind": "end"'


def has_log(run: Path) -> bool:
    return (run / LOG).exists()


def append_record(run: Path, record: dict[str, Any]) -> None:
    append_json_line(run / LOG, record)


def read_log(run: Path) -> list[dict[str, Any]]:
    """Read all records. Raises OSError, or ValueError naming file and line of a damaged record."""
    return read_json_lines(run / LOG)


def replace_log(run: Path, records: Sequence[dict[str, Any]]) -> None:
    write_text(run / LOG, "".join(json.dumps(record) + "\n" for record in records))


def end_of(run: Path) -> dict[str, Any] | None:
    """The last record of a run; None until the run has finished."""
    try:
        with opened(run / LOG) as log, mmap.mmap(log.fileno(), 0, access=mmap.ACCESS_READ) as text:
            place = text.rfind(_END)  # in text within a record its quotes would have backslashes
            if place < 0:
                return None
            begin, end = text.rfind(b"\n", 0, place) + 1, text.find(b"\n", place)
            line = text[begin : end + 1 if end >= 0 else len(text)].decode()
    except (OSError, ValueError):  # no log, or an empty one
        return None
    records = [record for _, record in parse_json_lines(line) if isinstance(record, dict)]
    return next((record for record in records if record.get("kind") == "end"), None)


def whole_end_of(run: Path) -> dict[str, Any] | None:
    """``end_of``, but None if the last checkpoint has been damaged since: such a run continues from the one before."""
    end, last = end_of(run), last_checkpoint(run)
    return None if end is None or (last.exists() and archive_damage(last) is not None) else end


def holds_work(run: Path) -> bool:
    """Whether a run directory holds what another run must not replace: results, a training that has ended, or a checkpoint of
    one that has taken a step. A start that was refused or stopped leaves nothing of these."""
    if any((run / RESULTS).glob("*.json")):
        return True
    try:
        kinds = [record.get("kind") for record in read_log(run)]
    except (OSError, ValueError):  # no log, or a damaged one
        return has_checkpoint(run)
    return "end" in kinds or ("step" in kinds and has_checkpoint(run))


def fingerprint_of(run: Path) -> str | None:
    """The fingerprint of the images that a run began with; None if its log has none."""
    return start_of(run).get("fingerprint")


def start_of(run: Path) -> dict[str, Any]:
    """The first record of a run, about its images; empty if the log has none."""
    try:
        with opened(run / LOG) as log:
            record = next(parse_json_lines(log.readline().decode()), (1, {}))[1]
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def newest_record(run: Path, kinds: Sequence[str]) -> dict[str, Any]:
    """The newest record of these kinds in the last 4 KiB of the log, else an empty one."""
    try:
        with opened(run / LOG) as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
            text = log.read(4096).decode(errors="replace")
    except OSError:
        return {}
    records = [record for _, record in parse_json_lines(text) if isinstance(record, dict)]
    return next((record for record in reversed(records) if record.get("kind") in kinds), {})
