"""Find out which runs are seeds of one row, and which are copies of each other."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any

from common.errors import UserError
from common.options import options_without_effect
from reports.analysis.facts import method_facts, todays_method_facts
from rundir.read import Problem, Run
from rundir.results import measured_key
from training.config import TrainConfig

#: Key of the training images' fingerprint among the options.
IMAGES = "data_fingerprint"
#: Key of the version of a run's method among the options, if the method has had several.
VERSION = "method_version"


def identity_of(run: Run) -> str:
    """A text that is equal for the runs of one row."""
    return as_text(trained_options(run))


def as_text(value: Any) -> str:
    """A text that is equal for equal options."""
    return json.dumps(value, sort_keys=True, default=str)


def trained_options(run: Run) -> dict[str, Any]:
    """The options that decide the trained weights, without the seed; the fingerprint of the training images (the name
    ``imagefolder`` may mean any); and the method's version."""
    images = {IMAGES: run.fingerprint} if run.fingerprint else {}
    if not method_facts(run)["trains"]:
        kept = ("method", "backbone", "data", "image_size")
        return {key: run.config[key] for key in kept if key in run.config} | images
    # An evaluation of a run's weights in another directory has the run's options and names the run.
    left_out = {"seed", *options_without_effect(TrainConfig), *(("weights",) if "method" in run.config else ())}
    if str(run.config.get("budget") or "").startswith("minutes="):
        # Such a budget is measured anew in each run, so the epochs are a result.
        left_out |= {"epochs", "warmup_epochs"}
    evaluations = {*(run.config.get("evals") or []), *(result.evaluation for result in run.results)}
    prefixes = tuple(f"{name}_" for name in evaluations)
    own = {field.name for field in dataclasses.fields(TrainConfig)}  # knn_every is no option of the evaluation knn
    kept = {k: v for k, v in run.config.items() if k not in left_out and (k in own or not k.startswith(prefixes))}
    return kept | _version(run) | images


def _version(run: Run) -> dict[str, int]:
    """The version of a run's method; that of runs from before methods had any is 1."""
    recorded = run.environment.get("method")
    version = recorded.get("version") if isinstance(recorded, dict) else None
    version = version if type(version) is int else 1
    return {VERSION: version} if max(version, todays_method_facts(run)["version"]) > 1 else {}


def fill_in_defaults(runs: Sequence[Run]) -> None:
    """Give runs the defaults of options that the toolkit did not have when they began: the options that other runs of the method
    have. Where the method's options cannot be read (without torch, or for a plug-in that is not loaded), they stay as they are."""
    trained = [run for run in runs if "method" in run.config]
    names: dict[str, set[str]] = {}
    for run in trained:
        names.setdefault(str(run.config["method"]), set()).update(run.config)
    for run in trained:
        method, recipe = str(run.config["method"]), str(run.config.get("recipe", TrainConfig.recipe))
        if (missing := names[method] - run.config.keys()) and (defaults := _defaults_of(method, recipe)):
            run.config.update({name: defaults[name] for name in missing & defaults.keys()})


@functools.cache
def _defaults_of(method: str, recipe: str) -> dict[str, Any]:
    """The defaults of a method's options by a recipe; empty if they cannot be read."""
    try:
        from methods.core.base import METHODS  # imports torch, which a report seldom needs
        from methods.core.recipes import defaults_of

        trainers, own = defaults_of(METHODS.get(method), recipe)
    except (ImportError, UserError):
        return {}
    return {**dataclasses.asdict(TrainConfig(**{"method": method, **trainers})), **dataclasses.asdict(own)}


def without_duplicates(runs: Sequence[Run]) -> tuple[list[Run], list[Problem]]:
    """Keep the newest of runs with equal options and seed, with the measurements that only an older one has; return notes, too.

    Copies are no independent repetitions: counting both would make the spread over seeds look too small.
    """
    kept: dict[tuple[str, str], Run] = {}
    notes: list[Problem] = []
    for run in runs:
        key = (identity_of(run), as_text(run.seed))
        other = kept.get(key)
        if other is None:
            kept[key] = run
            continue
        winner, loser = (run, other) if _worth(run) >= _worth(other) else (other, run)
        measured = {measured_key(result) for result in winner.results}
        added = [result for result in loser.results if measured_key(result) not in measured] if loser.finished else []
        winner.results.extend(added)
        kept[key] = winner
        taken = f"; {len(added)} measurements that only it has are used" if added else ""
        if winner.has_log and not loser.has_log:
            notes.append(Problem(str(loser.path), f"an evaluation of the weights of {winner.path}{taken}"))
            continue
        notes.append(
            Problem(
                str(loser.path),
                f"the same options and seed as {winner.path}, which is newer and is used instead{taken}",
            )
        )
    return list(kept.values()), notes


def _worth(run: Run) -> tuple[bool, bool, str]:
    """Sorts copies: finished ones, trainings before evaluations of their weights, and newer ones are better."""
    return run.finished, run.has_log, run.newest
