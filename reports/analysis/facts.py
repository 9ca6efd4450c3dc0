"""Read the declarations of methods and evaluations: from the run, else from the plug-in's file, else the base class's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.registry import ROOT, literals_of, plugins_of
from eval.core.base import facts_of
from rundir.read import Run
from rundir.results import Measurement


def method_facts(run: Run) -> dict[str, Any]:
    """The class attributes declared by ``methods.core.base.Method``, as a run's method has them."""
    defaults = todays_method_facts(run)
    return defaults | _of_same_types(run.environment.get("method"), defaults)


def todays_method_facts(run: Run) -> dict[str, Any]:
    """The same, as the method's file has them today."""
    method = str(run.config.get("method") or "")
    return literals_of(ROOT / "methods/core/base.py", "Method") | plugins_of("methods").facts(method)


def column_facts(measurement: Measurement) -> dict[str, Any]:
    """The display facts of a measurement, see ``eval.core.base.facts_of``."""
    defaults = facts_of(measurement.evaluation, measurement.metric)
    return defaults | _of_same_types(measurement.facts, defaults)


def _of_same_types(kept: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Keep entries of the expected type, since run files come from anywhere."""
    if not isinstance(kept, dict):
        return {}
    return {key: value for key, value in kept.items() if key in defaults and type(value) is type(defaults[key])}
