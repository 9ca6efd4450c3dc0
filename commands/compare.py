"""Run a grid of trainings, continue what was interrupted, and report."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from commands.train import TrainOptions, read_options
from commands.visualize import draw_for_run
from common.cli import load_plugins, read_open_command, require_one_process, with_options, words_of
from common.errors import UsageError, UserError
from common.names import short_names
from common.progress import Console, track
from data.datasets import listing_once
from reports import build_report
from rundir.log import end_of
from rundir.paths import CONFIG, REPORT, run_of
from training.budget import parse_budget
from training.grids.grid import Cell, cells_of, fix_backbones, grid_of, options_of_methods, without_repeats
from training.grids.launchers.cells import ENDED, is_done, name_room, run_cells, tail_of
from training.grids.options import CompareCommand
from training.logging import require_loggers
from training.resolve import is_out_of_date, other_options

if TYPE_CHECKING:
    from training.plan import Plan


@listing_once()
def main(words: Sequence[str]) -> int:
    """Run a grid and write its report. Returns 1 if a cell failed, which stops no other; 0 also if cells go on without this
    process."""
    require_one_process("compare")
    load_plugins(words)
    epilog = "Any option of training or of a method may follow."
    command, further = read_open_command("compare", __doc__, CompareCommand, words, epilog)
    command.launch.check()
    grid = grid_of(command, further)
    fix_backbones(grid)
    cells = cells_of(grid, options_of_methods([*grid.methods, *grid.file_methods]))
    for budget in {str(cell.options["budget"]) for cell in cells if cell.options.get("budget") is not None}:
        parse_budget(budget)
    asked = {cell.name: _asked(cell) for cell in cells}  # all of them, before any begins
    cells, left_out = without_repeats(cells)
    out = Path(command.out)
    again = to_evaluate_again({cell.name: asked[cell.name] for cell in cells}, out)
    console = Console()
    say = partial(console.print, highlight=False, soft_wrap=True)
    if left_out:
        say(left_out)
    if command.dry_run:
        jobs = (command.jobs or 1) if command.launch.launcher == "local" else None
        print_plan(grid.title, cells, asked, out, jobs, console, again)
        for line in require_possible(cells, asked, again, command, console, with_options(words, {"dry_run": None})):
            say(line)
        return 0
    if command.launch.launcher == "local":  # other machines may have other logins
        require_loggers(asked[cell.name].train for cell in cells)
    for line in require_possible(cells, asked, again, command, console, words):
        say(line)
    states = run_cells(cells, command, console, again)
    if going := [state for state in states if state.status not in ENDED]:
        say(
            f"{len(going)} of {len(states)} runs are queued or running; python run.py status {out} shows how far they are, and "
            "this command, again, makes the report"
        )
        return 0
    failed = [state for state in states if state.status == "failed"]
    for state in failed:
        say(f"\n{state.cell.name} failed; the end of {state.log}:\n{tail_of(state)}")
    for state in states:  # runs may have ended before pictures were asked for
        if state.status == "done" and (kinds := state.cell.options.get("visualize")):
            draw_for_run(state.directory, kinds)
    if runs := [state.directory for state in states if state.directory.is_dir()]:
        say(f"report: {build_report(runs, out / REPORT, title=grid.title)}")
    return 1 if failed else 0


def _asked(cell: Cell) -> TrainOptions:
    """Parse a cell's options. Raises UsageError naming the cell."""
    try:
        return read_options(words_of(cell.options))
    except UsageError as error:
        raise UsageError(f"{cell.name}: {error}") from error


def to_evaluate_again(asked: Mapping[str, TrainOptions], out: Path) -> set[str]:
    """Name the cells whose evaluations had other options, or data in another folder. Raises UserError if a cell's directory holds
    a training with other options, since the report would show its results as this grid's."""
    again = set()
    for name, options in asked.items():
        run = run_of(out, name)
        if not (run / CONFIG).is_file():
            continue
        if differing := other_options(run, options.train, options.method):
            raise UserError(
                f"{run} holds a run with other options ({differing}); give another --out, or those options, or delete it"
            )
        if is_out_of_date(run, options.train, options.evaluations):
            again.add(name)
    return again


def require_possible(
    cells: Sequence[Cell],
    asked: Mapping[str, TrainOptions],
    again: Collection[str],
    command: CompareCommand,
    console: Console,
    words: Sequence[str],
) -> list[str]:
    """Check everything that can be known of the cells to run before the first begins, and return warnings, also
    of days of training. ``words``: the command's. Raises UserError naming every cell that would fail, and why."""
    from eval.core.checks import refusals
    from training.grids.alternative import warning_of_days
    from training.grids.checks import cautions, lacking_memory, lacking_space
    from training.plan import make_plan

    out, here = Path(command.out), command.launch.launcher == "local"
    due = {cell.name: run_of(out, cell.name) for cell in cells if cell.name in again or not _is_done(cell, out)}
    to_train: dict[str, Plan] = {}
    reasons: dict[str, list[str]] = {}  # the names of their cells
    warnings: dict[str, list[str]] = {}
    # Cells that differ in the seed alone share a key.
    first: dict[str, Plan] = {}
    checked: dict[str, tuple[list[str], list[str]]] = {}
    with console.status(f"checking {len(due)} runs before the first begins"):
        for name, run in due.items():
            train, method, evaluations = asked[name].train, asked[name].method, asked[name].evaluations
            if train.budget is not None:  # measuring where it ends may take minutes, and does not matter here
                train = replace(train, budget=None, epochs=1e9)
            key = repr((replace(train, seed=0, visualize=None), method, evaluations))
            try:
                plan = make_plan(replace(train, out=str(run)), method, evaluations, fetch=not command.dry_run)
                plan = first[key].alike(plan.config) if key in first else first.setdefault(key, plan)
                if key not in checked:
                    failing = refusals(plan, here)
                    checked[key] = failing, [] if failing else cautions(plan, here)
                if not checked[key][0] and end_of(run) is None:
                    to_train[name] = plan
            except UserError as error:
                # Where cells run elsewhere, data and weights may be there alone; a cell that lacks them says so itself.
                checked[key] = [str(error)] if here else [], []
            for messages, by_message in zip(checked[key], (reasons, warnings), strict=True):
                for message in messages:
                    by_message.setdefault(message, []).append(name)
        if here and not reasons:
            plans, jobs = list(to_train.values()), command.jobs or 1
            for reason in filter(None, (lacking_space(plans, jobs), lacking_memory(plans, jobs))):
                reasons[reason] = list(due)
    if reasons:
        failing = {name for names in reasons.values() for name in names}
        lines = [f"{_names(names)}: {reason}" for reason, names in reasons.items()]
        raise UserError("\n  ".join([f"{len(failing)} of {len(cells)} runs would fail, so none begins:", *lines]))
    lines = [f"warning: {_names(names)}: {warning}" for warning, names in warnings.items()]
    if here and (of_days := warning_of_days(_with_ends(to_train, asked), words, command.out)):
        lines.append(of_days)
    return lines


def _with_ends(plans: Mapping[str, Plan], asked: Mapping[str, TrainOptions]) -> list[Plan]:
    """The plans, by their cells' names, up to the ends of their budgets. Left out are plans without training, and plans of budgets
    in minutes, which tell the time themselves."""
    from training.plan import make_plan

    ending = []
    for name, plan in plans.items():
        train, method = asked[name].train, asked[name].method
        kind = None if train.budget is None else parse_budget(train.budget)[0]
        if kind is not None and kind != "minutes":
            plan = make_plan(replace(train, out=plan.config.out), method, fetch=False)
        if kind != "minutes" and plan.total_steps:
            ending.append(plan)
    return ending


def _is_done(cell: Cell, out: Path) -> bool:
    return is_done(run_of(out, cell.name), cell.options.get("evals") or [])


def _names(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def print_plan(
    title: str,
    cells: Sequence[Cell],
    asked: Mapping[str, TrainOptions],
    out: Path,
    jobs: int | None,
    console: Console,
    again: Collection[str] = (),
) -> None:
    """Print each cell's options and estimated minutes of training, and the sum of those to run. ``jobs``: how many cells share this
    machine at a time; None: they run elsewhere."""
    from training.grids.estimate import TimeEstimate, in_words  # with the trainer, which slows a grid's start

    estimate = TimeEstimate([(cell.options, run_of(out, cell.name)) for cell in cells])
    table = Table(title=f"{title}: {len(cells)} runs in {out}", title_justify="left")
    for column in ("run", "status", "training"):
        table.add_column(column, no_wrap=True)
    table.add_column("options of its own", overflow="fold")
    names = short_names([cell.name for cell in cells], name_room(console.width))
    named = ("method", "backbone", "seed")  # a run's name has them
    given = [{k: v for k, v in cell.options.items() if v is not None and k not in named} for cell in cells]
    common = {name for name in given[0] if all(options.get(name) == given[0][name] for options in given)}
    left, unknown = 0.0, 0
    for cell, name, options in track(list(zip(cells, names, given, strict=True)), "planning runs", len(cells)):
        done = _is_done(cell, out) and cell.name not in again
        minutes = None
        words = " ".join(f"{k}={v}" for k, v in options.items() if k not in common)
        try:
            minutes = estimate.minutes(asked[cell.name].train, asked[cell.name].method)
        except UserError as error:  # data may be missing on this machine; the rest of the plan stands
            words += f"\n({error})"
        if not done:
            left, unknown = left + (minutes or 0.0), unknown + (minutes is None)
        table.add_row(Text(name), "done" if done else "to run", in_words(minutes), Text(words))
    console.print(table)
    more = f", and {unknown} runs of unknown length" if unknown else ""
    here = f"; {jobs} at a time share this machine" if jobs else ""
    for line in (
        "all runs: " + " ".join(f"{k}={given[0][k]}" for k in given[0] if k in common),
        f"training that is left: {in_words(left)} one after another{more}{here}. Evaluations come on top. "
        f"Estimated {estimate.source}.",
    ):
        console.print(line, highlight=False, soft_wrap=True)
