"""What methods and evaluations say of themselves: as the run has kept it, or as the plug-in's file declares it.

Runs made before these facts were kept, and those of plug-ins that are not here, have the defaults of ``Method`` and ``Evaluation``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.registry import ROOT, literals_of, plugins_of
from eval.core.base import facts_of
from rundir.read import Run
from rundir.results import Measurement


def method_facts(run: Run) -> dict[str, Any]:
    """The class attributes of a run's method that ``methods.core.base.Method`` lists, among them ``title``."""
    method = str(run.config.get("method") or "")
    defaults = literals_of(ROOT / "methods/core/base.py", "Method") | plugins_of("methods").facts(method)
    return defaults | _of_same_types(run.environment.get("method"), defaults)


def column_facts(measurement: Measurement) -> dict[str, Any]:
    """How to show a measurement; see ``eval.core.base.facts_of``."""
    defaults = facts_of(measurement.evaluation, measurement.metric)
    return defaults | _of_same_types(measurement.facts, defaults)


def _of_same_types(kept: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that can be used: files of runs come from anywhere."""
    if not isinstance(kept, dict):
        return {}
    return {key: value for key, value in kept.items() if key in defaults and type(value) is type(defaults[key])}
