#!/usr/bin/env python3
"""The command line: reads options, calls the rest, holds no logic."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

COMMANDS = {
    "train": "pre-train a backbone with a method, then evaluate it (the default command)",
    "evaluate": "evaluate any weights: k-NN, linear probe, …",
    "segment": "train segmentation heads on any weights, frozen or fine-tuned, and measure their mIoU",
    "compare": "run a grid of trainings, continue what was interrupted, and report",
    "status": "show how far each run of a grid is, from the grid's folder alone",
    "reproduce": "run rows of published tables, and set what is measured beside what was published",
    "report": "make the report from run directories, without torch",
    "data": "build, check and describe a data set",
    "export": "write weights in another layout: the authors', timm's, torchvision's, ONNX",
    "visualize": "look inside: attention, receptive fields, cross-correlation, features, crops, collapse",
}

USAGE = """usage: run.py [COMMAND] --option value …

Compare how vision backbones learn without labels, or with few.

commands:
{commands}

  python run.py COMMAND --help          the options of a command
  python run.py --method dino --help    the options of training, with DINO's own and its published defaults

examples:
  python run.py --method dino --backbone vit_s8
  python run.py --method barlow_twins --backbone resnet50 --data imagefolder --data_root DIR --evals knn linear
  python run.py evaluate --weights dino_deitsmall16_pretrain.pth --backbone vit_s16 --data imagenet --data_root DIR --evals knn
  python run.py compare --grid experiments/demo.yaml --out demo
"""


def train(words: Sequence[str]) -> int:
    from commands.train import read_options

    options = read_options(words, COMMANDS["train"])
    from training.trainer import plan, print_plan
    from training.trainer import train as run_training

    if options.command.dry_run:
        print_plan(plan(options.train, options.method))
        return 0
    run_training(options.train, options.method, options.evaluations, resume=options.command.resume == "auto")
    return 0


def evaluate(words: Sequence[str]) -> int:
    from commands.evaluate import read_options
    from common.cli import require_one_process

    require_one_process("evaluate")
    command, evaluations = read_options(words, COMMANDS["evaluate"])

    from commands.evaluate import evaluate_weights

    evaluate_weights(command, evaluations)
    return 0


def segment(words: Sequence[str]) -> int:
    from commands.segment import SegmentCommand
    from common.cli import make_parser, parse, value_of
    from common.registry import load_plugin
    from eval.segmentation import SegmentationConfig

    for plugin in value_of(words, "plugin") or []:
        load_plugin(plugin)
    parser = make_parser("segment", COMMANDS["segment"])
    parser.add_arguments(SegmentCommand, dest="command")
    parser.add_arguments(SegmentationConfig, dest="segmentation")
    options = parse(parser, words)

    from commands.segment import segment_weights

    segment_weights(options.command, options.segmentation)
    return 0


def data(words: Sequence[str]) -> int:
    from commands.data import DataCommand
    from common.cli import make_parser, parse

    parser = make_parser("data", COMMANDS["data"])
    parser.add_arguments(DataCommand, dest="command")
    command = parse(parser, words).command

    from pathlib import Path

    from commands.data import describe

    if command.download:
        from data.datasets import fetch

        fetch(command.name, command.data_root and Path(command.data_root))
    describe(command.name, command.data_root and Path(command.data_root), command.short_side)
    return 0


def report(words: Sequence[str]) -> int:
    from commands.report import ReportCommand
    from common.cli import make_parser, parse

    parser = make_parser("report", COMMANDS["report"])
    parser.add_arguments(ReportCommand, dest="command")
    command = parse(parser, words).command

    from reports import build_report

    print(build_report(command.runs, command.out, title=command.title, palette=command.palette))
    return 0


def compare(words: Sequence[str]) -> int:
    from common.cli import further_options, make_parser, require_one_process
    from training.grids.options import CompareCommand

    require_one_process("compare")
    parser = make_parser("compare", COMMANDS["compare"], epilog="Any option of training or of a method may follow.")
    parser.add_arguments(CompareCommand, dest="command")
    options, further = parser.parse_known_args(list(words))

    from commands.compare import compare as run_grid

    return run_grid(options.command, further_options(further))


def status(words: Sequence[str]) -> int:
    from commands.status import StatusCommand
    from common.cli import make_parser, parse

    parser = make_parser("status", COMMANDS["status"])
    parser.add_arguments(StatusCommand, dest="command")
    command = parse(parser, words).command

    from commands.status import status as show

    return show(command)


def reproduce(words: Sequence[str]) -> int:
    from commands.reproduce import ReproduceCommand
    from common.cli import further_options, make_parser, require_one_process

    epilog = "Any option of training, or of evaluate and its evaluations, may follow."
    require_one_process("reproduce")
    parser = make_parser("reproduce", COMMANDS["reproduce"], epilog=epilog)
    parser.add_arguments(ReproduceCommand, dest="command")
    options, further = parser.parse_known_args(list(words))

    from commands.reproduce import reproduce as run_tables

    return run_tables(options.command, further_options(further))


def export(words: Sequence[str]) -> int:
    from commands.export import ExportCommand
    from common.cli import make_parser, parse, value_of
    from common.registry import load_plugin

    for plugin in value_of(words, "plugin") or []:
        load_plugin(plugin)
    parser = make_parser("export", COMMANDS["export"])
    parser.add_arguments(ExportCommand, dest="command")
    command = parse(parser, words).command

    from commands.export import export as write

    print(write(command))
    return 0


def visualize(words: Sequence[str]) -> int:
    from common.cli import make_parser, parse, value_of
    from common.errors import UsageError, unknown_name
    from common.registry import load_plugin
    from reports.visual.options import VISUALIZATIONS

    known = "\n".join(f"  {name:<18} {kind.__doc__.splitlines()[0]}" for name, kind in VISUALIZATIONS.items())
    if not words:
        raise UsageError(f"visualize: what? Give one of {', '.join(VISUALIZATIONS)}")
    what, *words = words
    if what in ("-h", "--help"):
        print(f"usage: run.py visualize WHAT --option value …\n\n{known}\n\n  python run.py visualize WHAT --help")
        return 0
    if what not in VISUALIZATIONS:
        raise unknown_name("picture", what, VISUALIZATIONS)
    parser = make_parser(f"visualize {what}", VISUALIZATIONS[what].__doc__)
    parser.add_arguments(VISUALIZATIONS[what], dest="command")
    command = parse(parser, words).command
    for plugin in value_of(words, "plugin") or []:
        load_plugin(plugin)

    from commands.visualize import visualize as draw

    for path in draw(what, command):
        print(path)
    return 0


def main(words: Sequence[str]) -> int:
    from common.errors import UserError, explain, unknown_name

    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print(USAGE.format(commands="\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items())))
        return 0
    try:
        try:
            if words[0].startswith("-"):
                return train(words)
            if words[0] not in COMMANDS:
                raise unknown_name("command", words[0], COMMANDS)
            return globals()[words[0]](words[1:])
        except ModuleNotFoundError as error:
            from common.environment import continue_in_venv

            continue_in_venv(error.name, words)
            raise
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    except Exception as error:
        told = explain(error)
        if told is None:
            traceback.print_exc()
            told = (
                f"{type(error).__name__}: {error}; nobody has foreseen that, so the lines above say where it happened"
            )
        print(f"error: {told}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be what the terminal can show
    sys.exit(main(sys.argv[1:]))
