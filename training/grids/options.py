"""Options of where a grid runs. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simple_parsing import field

from common.errors import UsageError
from common.options import check, option

#: Which options each launcher has, beside --jobs.
OPTIONS = {
    "local": set(),
    "slurm": {"gpus", "cpus", "nodes", "partition", "time", "wait"},
    "ray": {"gpus", "cpus", "address"},
}


@dataclass(kw_only=True)
class LaunchOptions:
    """Where the cells run (docs/clusters.md)."""

    launcher: Literal["local", "slurm", "ray"] = "local"
    """local: processes on this machine; slurm: jobs of a SLURM cluster; ray: tasks of a Ray cluster"""
    gpus: int | None = option(None, at_least=0)
    """slurm, ray: GPUs of a cell on each of its nodes, with a process for each; default: 0"""
    cpus: int | None = option(None, at_least=1)
    """slurm, ray: CPU cores for each process of a cell; default: 1"""
    nodes: int | None = option(None, at_least=1)
    """slurm: nodes of a cell; default: 1"""
    partition: str | None = None
    """slurm: the jobs' partition; default: the cluster's"""
    # A cell is told to stop two minutes before its time is over.
    time: int | None = option(None, at_least=5)
    """slurm: minutes after which a cell writes a checkpoint and is queued again; default: 1440"""
    wait: bool = False
    """slurm: stay until all cells have ended, and write the report; without it, the same command does that later"""
    address: str | None = None
    """ray: the cluster's address, such as 10.0.0.1:6379; default: the cluster that this machine belongs to"""

    def check(self) -> None:
        """Raises UsageError: an option that the launcher does not have, or that is out of its range."""
        for name in sorted(set().union(*OPTIONS.values()) - OPTIONS[self.launcher]):
            value = getattr(self, name)
            if value is not None and value is not False:
                having = " or ".join(launcher for launcher, options in OPTIONS.items() if name in options)
                raise UsageError(f"--{name}: --launcher {self.launcher} has no such option; add --launcher {having}")
        check(self)


@dataclass(kw_only=True)
class CompareCommand:
    """Options of a grid. Any further option of training or of a method is handed to the cells that have it."""

    grid: str | None = None
    """YAML file of a grid, such as experiments/demo.yaml; the options below override it"""
    methods: list[str] | None = None
    """methods to compare"""
    backbones: list[str] | None = None
    """backbones to compare"""
    seeds: list[int] | None = None
    """one training for each"""
    evals: list[str] | None = None
    """evaluations of each training"""
    visualize: list[str] | None = None
    """pictures of each row's first run for the report, such as: attention pca; run.py visualize --help lists them; default: the
    grid's, else none"""
    vary: list[list[str]] = field(default_factory=list, action="append", type=str)
    """OPTION=VALUE,VALUE,… or METHOD.OPTION=VALUE,…: one training for each value; may be given several times"""
    vary_mode: str | None = None
    """product: all combinations of the varied values (default); one_at_a_time: around the rest of the grid"""
    out: str = "comparison"
    """folder for the run directories and the report"""
    jobs: int | None = option(None, at_least=1)
    """trainings at the same time; default: 1 on this machine, whose cores and GPUs are divided among them, and on a cluster as many
    as it has room for"""
    launch: LaunchOptions = field(default_factory=LaunchOptions)
    """where they run"""
    plugin: list[list[str]] = field(default_factory=list, action="append", type=str)
    """file or module that adds a method, backbone or evaluation; may be given several times"""
    dry_run: bool = False
    """print the plan and what is done already; run nothing"""
