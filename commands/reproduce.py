"""Run rows of published tables, and set what is measured beside what was published. ``--list`` imports neither torch nor
matplotlib."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text
from simple_parsing import field

from common.cli import UnknownOption, read_open_command, require_one_process, words_of
from common.environment import ROOT
from common.errors import UsageError, UserError, unknown_name
from common.files import read_yaml, write_text
from common.interrupt import answering
from common.options import options_without_effect
from common.progress import Console, working
from data.sets.core.base import DATASETS, require_folder
from reports import build_report
from reports.analysis.published import PublishedTable, read_published
from reports.analysis.reproduction import measured, side_by_side
from reports.analysis.tables import to_csv, to_markdown
from rundir.paths import CHECKPOINTS, REPORT, REPRODUCES, RESULTS, output_of, run_of, runs_with_results
from rundir.provenance import read_mark, write_mark
from rundir.read import read_runs
from training.config import TrainConfig
from training.grids.grid import Cell, cells_of, fix_backbones, options_of_methods, read_grid
from training.grids.launchers.process import start, stopping_well

#: The answer to Ctrl-C.
ANSWER = "stopping: the run saves what it has; again to end it now"


@dataclass(kw_only=True)
class ReproduceCommand:
    """Run rows of published tables, and set what is measured beside what was published."""

    tables: list[str] = field(positional=True, default_factory=list, nargs="*", metavar="TABLE")
    """published tables to run, such as dino/table2; --list shows them"""
    list: bool = False
    """show every table: what it needs, what it costs, and what has been measured so far under --out"""
    data_root: list[str] | None = None
    """folder of the data set; where a table reads several, NAME=DIR for each"""
    rows: list[str] | None = None
    """rows to run, by their names; default: all that can be run"""
    seeds: list[int] | None = None
    """one run of each row for each; default: the grid's, or 0"""
    out: str = "reproduced"
    """folder for the run directories, tables and reports"""
    dry_run: bool = False
    """print the commands; run nothing"""


@dataclass(frozen=True)
class Task:
    """One command of a row, for one of its table's parts."""

    row: str
    part: str
    name: str  # of the run directory
    command: str  # train or evaluate
    options: Mapping[str, Any]

    def words(self, out: Path) -> list[str]:
        """For ``run.py``."""
        return [self.command, *words_of({**self.options, "out": str(run_of(out, self.name))})]


def main(words: Sequence[str]) -> int:
    """Run the command. Returns 1 if a row could not be measured, which stops no other."""
    require_one_process("reproduce")
    epilog = "Any option of training, or of evaluate and its evaluations, may follow."
    command, further = read_open_command("reproduce", __doc__, ReproduceCommand, words, epilog)
    published = read_published()
    console = Console(highlight=False, soft_wrap=True)
    if command.list:
        print_list(published, Path(command.out), console)
        return 0
    if not command.tables:
        raise UsageError(
            "reproduce: which table? Give one, such as dino/table2; python run.py reproduce --list shows them"
        )
    for name in command.tables:
        if name not in published:
            raise unknown_name("published table", name, published)
    return max([run_table(published[name], command, further, console) for name in command.tables])


def run_table(table: PublishedTable, command: ReproduceCommand, further: Mapping[str, Any], console: Console) -> int:
    """Run the rows of one table that have not been measured, print measured beside published numbers, and write both into
    ``OUT/TABLE``. ``further``: options over the table's own, for the commands that have them. Returns 1 if a row fails."""
    out = Path(command.out) / table.name
    tasks = _fitting(tasks_of(table, command.rows, command.seeds, further), further, console)
    roots = _roots(table, tasks, command.data_root or [])
    due, missing = [], {}
    for task in tasks:
        try:
            due.append(_with_data(task, table, roots))
        except UserError as error:
            missing[task.row, task.part] = str(error)
    if command.dry_run:
        for task in due:
            console.print(f"# {task.row}\npython run.py {shlex.join(task.words(out))}")
    else:
        for task in due:
            own = {name: value for name, value in further.items() if name in task.options}
            _mark(run_of(out, task.name), table, task, own)
        for number, task in enumerate(due, 1):
            log = output_of(out, task.name)
            console.print(f"[{number}/{len(due)}] {table.name}, {task.name}: running; it prints into {log}")
            if reason := _run(task.words(out), log):
                missing[task.row, task.part] = reason
        _show(table, out, missing, console)
    for (row, part), reason in missing.items():
        console.print(f"not run: {row} ({part}): {reason}" if len(table.parts) > 1 else f"not run: {row}: {reason}")
    return 1 if missing else 0


def _fitting(tasks: Sequence[Task], further: Mapping[str, Any], console: Console) -> list[Task]:
    """Drop and print the ``further`` options that a task's command lacks. Raises UsageError if all commands lack one."""
    if not (further and tasks):
        return list(tasks)
    one_of_kind = {(task.part, task.options.get("method")): task for task in tasks}
    unknown = {kind: _unknown(task, further) for kind, task in one_of_kind.items()}
    for name in further:
        if all(name in errors for errors in unknown.values()):
            raise unknown[tasks[0].part, tasks[0].options.get("method")][name]
    fitting = []
    for task in tasks:
        lacking = unknown[task.part, task.options.get("method")]
        if lacking:
            names = ", ".join(f"--{name}" for name in lacking)
            console.print(f"{task.name}: left out, for its command has no such option: {names}")
        options = {name: value for name, value in task.options.items() if name not in lacking}
        fitting.append(replace(task, options=options))
    return fitting


def _unknown(task: Task, further: Mapping[str, Any]) -> dict[str, UsageError]:
    """The ``further`` options that a task's command lacks, with their errors. Any other wrong option raises UsageError."""
    read = importlib.import_module(f"commands.{task.command}").read_options
    unknown: dict[str, UsageError] = {}
    while True:
        try:
            read(words_of({name: value for name, value in task.options.items() if name not in unknown}))
            return unknown
        except UsageError as error:
            of_row = UsageError(f"{task.row}: {error}")
            if not isinstance(error, UnknownOption) or error.option not in further:
                raise of_row from error
            unknown[error.option] = of_row


def _run(words: Sequence[str], log: Path) -> str:
    """Run a command in its own process, which a signal to this one stops first. Returns "" or the error's sentence."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file, stopping_well():  # another process may run this row, and write there
        began = file.tell()
        process = start(words, file)
        with answering(ANSWER, process.kill), working(f"running {log.stem}, whose output is in {log}"):
            try:
                status = process.wait()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                process.wait()
    if status == 0:
        return ""
    lines = log.read_bytes()[began:].decode(errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else f"it ended with status {status} and no sentence; see {log}"


def tasks_of(
    table: PublishedTable, rows: Sequence[str] | None, seeds: Sequence[int] | None, further: Mapping[str, Any]
) -> list[Task]:
    """List the commands of the rows named in ``rows``, or of all that can be run. Raises UsageError for an unknown row, or for one
    that cannot be run."""
    chosen = [table.row(name) for name in dict.fromkeys(rows or ())]
    for row in chosen:
        if row.not_run:
            raise UsageError(f"{table.name}: {row.name} cannot be run: {row.not_run}")
    tasks = []
    cells = _grid_cells(table, seeds) if table.grid else []
    for row in chosen or [row for row in table.rows if not row.not_run]:
        for cell in cells:
            if cell.name.rpartition("-seed")[0] == row.cell:
                name = f"{_slug(row.name)}-{cell.name}"
                tasks.append(Task(row.name, "", name, "train", {**cell.options, **further}))
        for part in table.parts_of(row) if not table.grid else ():
            for seed in seeds or [0]:
                name = _slug(row.name, part if len(table.parts) > 1 else "", f"seed{seed}")
                options = {**table.parts[part], **row.run, "seed": seed, **further}
                tasks.append(Task(row.name, part, name, "evaluate", options))
    return tasks


def _grid_cells(table: PublishedTable, seeds: Sequence[int] | None) -> list[Cell]:
    """The cells of a table's grid, with its methods on request."""
    grid = read_grid(ROOT / table.grid)
    grid.methods = {**grid.on_request, **grid.methods}
    grid.seeds = list(seeds or grid.seeds)
    fix_backbones(grid)
    return cells_of(grid, options_of_methods(list(grid.methods)))


def _slug(*words: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=+-]+", "_", "-".join(filter(None, words)))


def _roots(table: PublishedTable, tasks: Sequence[Task], words: Sequence[str]) -> dict[str, str]:
    """The folders of ``--data_root`` by data set or part; "" stands for the rest."""
    names = {task.part for task in tasks if task.part} | {str(task.options.get("data")) for task in tasks}
    roots = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or Path(word).exists():
            name, folder = "", word
        elif name not in names:
            raise unknown_name(f"data set of {table.name}", name, names)
        if name in roots:
            raise UsageError(f"--data_root {word}: a folder was given for it before; give NAME=DIR for each data set")
        roots[name] = folder
    return roots


def _with_data(task: Task, table: PublishedTable, roots: Mapping[str, str]) -> Task:
    """Add the folder of its data to a task. Raises UserError if the folder is missing."""
    data = str(task.options.get("data"))
    if DATASETS.get(data).make_folder is not None:
        return task
    # A table may have several image folders, so there parts, and not data sets, name the folders.
    ambiguous = data == "imagefolder" and len(table.parts) > 1
    root = roots.get(task.part) or roots.get(data) or (None if ambiguous else roots.get(""))
    if root is None and (ambiguous or len(table.parts) > 1):
        name = task.part if ambiguous else data
        raise UserError(f"the data set {name} needs its folder: --data_root {name}=DIR")
    folder = require_folder(data, None if root is None else Path(root))
    return replace(task, options={**task.options, "data_root": str(folder)})


def _mark(directory: Path, table: PublishedTable, task: Task, further: Mapping[str, Any]) -> None:
    """Write which row a run directory reproduces. Raises UserError if it holds results of another row or other options."""
    without_effect = options_without_effect(TrainConfig)
    changed = {name: value for name, value in further.items() if name not in without_effect}
    mark = {"table": table.name, "row": task.row, "part": task.part, "changed": changed}
    mark = json.loads(json.dumps(mark, default=str))  # as the file has it
    file = directory / REPRODUCES
    if file.is_file():
        try:
            before = read_mark(directory)
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: {error}; delete it, or give another --out") from error
        if before == mark:
            return
        if any((directory / folder).is_dir() for folder in (CHECKPOINTS, RESULTS)):
            options = before.get("changed")
            given = " ".join(words_of(options)) if options else "the table's own options"
            raise UserError(f"{directory} was run with {given}; give the same, or another --out")
    write_mark(directory, mark)


def _show(table: PublishedTable, out: Path, missing: Mapping[tuple[str, str], str], console: Console) -> None:
    """Print measured beside published numbers, and write them into files."""
    directories = runs_with_results(out)
    runs, _ = read_runs(directories)
    both = side_by_side(table, runs, missing)
    shown = RichTable(title=both.title, title_justify="left")
    for heading in both.headings[:-1]:  # remarks follow below
        shown.add_column(heading.text, justify="right" if heading.numeric else "left", overflow="fold")
    remarks = []
    for position, row in enumerate(both.rows):
        if position in both.breaks:
            shown.add_section()
        shown.add_row(*(Text(" ".join(filter(None, (entry.text, entry.note)))) for entry in row[:-1]))
        if (remark := row[-1].text) and not remark.startswith(("not run", "published only")):
            remarks.append(f"{row[0].text}: {remark}")
    console.print(shown, soft_wrap=False)
    for line in (*dict.fromkeys(remarks), both.caption):
        console.print(line)
    write_text(out / "published-and-measured.csv", to_csv(both))
    write_text(out / "published-and-measured.md", to_markdown(both))
    if runs:
        console.print(f"report: {build_report(directories, out / REPORT, title=both.title)}")


def print_list(tables: Mapping[str, PublishedTable], out: Path, console: Console) -> None:
    """Print the needs and the cost of every table, and how many of its numbers have been measured under ``out``."""
    for name, table in tables.items():
        console.print(f"{name}: {table.title} ({table.where})", style="bold")
        # A column for each would be too narrow on a terminal of 80 characters.
        about = RichTable.grid(padding=(0, 2))
        for row in (("needs", _needs(table)), ("cost", table.cost), ("measured", _so_far(table, out))):
            about.add_row(*map(Text, row))
        console.print(Padding(about, (0, 0, 0, 4)), soft_wrap=False)
    console.print(
        "python run.py reproduce TABLE --data_root DIR runs one; weights by name are in the cache, or are fetched"
    )


def _needs(table: PublishedTable) -> str:
    if table.grid:
        return f"data: {read_yaml(ROOT / table.grid)['base']['data']}; trains {table.grid}"
    parts = [part if options["data"] == "imagefolder" else options["data"] for part, options in table.parts.items()]
    weights = f"; weights: {', '.join(table.weights)}" if table.weights else ""
    return f"data: {', '.join(dict.fromkeys(parts))}{weights}"


def _so_far(table: PublishedTable, out: Path) -> str:
    """Say how many of a table's published numbers have been measured, and the largest difference."""
    runs, _ = read_runs(runs_with_results(out / table.name))
    wanted, differences, further = 0, [], 0
    measurable = [(name, column) for name, column in table.columns.items() if column.evaluation]
    for row, (name, column) in itertools.product(table.rows, measurable):
        result = measured(table, row, column, runs)
        if name not in row.published or row.not_run:
            further += result is not None
            continue
        wanted += 1
        if result:
            differences.append(result.value - row.published[name])
    words = f"{len(differences)} of {wanted} numbers" if wanted else f"{further} numbers, none published"
    if differences:
        words += f", at most {max(differences, key=abs):+.3g} off".replace("-", "−")
    if any((run.reproduces or {}).get("changed") for run in runs):
        words += ", some with other options than the table's"
    return words
