"""From command-line words to option dataclasses (simple-parsing), with one-sentence errors. Imports no torch."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from simple_parsing import ArgumentParser, field

from common.errors import UsageError, unknown_name, unreadable
from common.files import parse_yaml, read_yaml
from common.options import check, facts_of, is_side, several_values
from common.registry import load_plugin

Options = TypeVar("Options")


@dataclass(kw_only=True)
class PluginOption:
    """The option ``--plugin`` of a command; ``load_plugins`` obeys it."""

    plugin: list[list[str]] = field(default_factory=list, action="append", type=str)
    """file or module that adds a method, backbone, evaluation or data set; may be given several times"""


class UnknownOption(UsageError):
    """A command has no ``option`` of that name (without dashes)."""

    def __init__(self, option: str, message: str):
        super().__init__(message)
        self.option = option


def make_parser(command: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """Make a parser for dataclasses of options (``add_arguments``), which checks and shows what ``common.options`` declares.
    Errors raise UsageError."""

    class Parser(ArgumentParser):
        def add_arguments(self, *args: Any, **more: Any) -> Any:
            added = super().add_arguments(*args, **more)
            for argument in [argument for group in (added, *added.descendants) for argument in group.fields]:
                facts = facts_of(argument.parent.dataclass, argument.field.name)
                names = ", ".join(facts["names"]()) if facts.get("names") else ""
                if allowed := "; ".join(filter(None, (str(facts.get("range", "")), names))):
                    argument.help = f"{argument.help} [{allowed}]"
            return added

        def parse_known_args(self, *args: Any, **more: Any) -> tuple[argparse.Namespace, list[str]]:
            namespace, unknown = super().parse_known_args(*args, **more)
            for group in self._wrappers:
                if "." not in group.dest:  # others are fields of these
                    check(getattr(namespace, group.dest), group.prefix)
            return namespace, unknown

        def error(self, message: str) -> NoReturn:
            message = message.replace("command.", "")  # positional options carry their dataclass's name
            pair = re.search(r"argument --(\w+): invalid int value: '\D?(\d+)\D+(\d+)\D?'", message)
            if pair and is_side(pair[1]):  # 64x48, 64,48, [64, 48]
                message = several_values(pair[1], pair.groups()[1:])
            raise UsageError(f"{command}: {message}; see: python run.py {command} --help")

    return Parser(prog=f"run.py {command}", description=description, epilog=epilog, allow_abbrev=False)


def require_one_process(command: str) -> None:
    """Raise UsageError if ``torchrun`` has started several processes, since each would do all the work."""
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise UsageError(f"{command} is one process; start it without torchrun, which is for training and for segment")


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse all of ``words``. Raises UnknownOption naming the nearest option, and UsageError for stray words."""
    namespace, unknown = parser.parse_known_args(list(words))
    for word in unknown:
        if word.startswith("--"):
            names = [option for option in parser._option_string_actions if option.startswith("--")]
            option = word.split("=")[0]
            nearest = unknown_name("option", option, names)
            raise UnknownOption(option.removeprefix("--"), f"{nearest}; see: python {parser.prog} --help")
    if unknown:
        if taken := _with_too_many(words, unknown[0], parser):
            raise UsageError(f"{parser.prog}: {taken}; see: python {parser.prog} --help")
        raise UsageError(f"{parser.prog}: {' '.join(unknown)!r} belongs to no option; see: python {parser.prog} --help")
    return namespace


def _with_too_many(words: Sequence[str], stray: str, parser: argparse.ArgumentParser) -> str | None:
    """What to say where ``stray`` follows the value of an option that takes one; None where it does not."""
    option, values = "", []
    for word in words:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            values = [value] if equals else []
        else:
            values.append(word)
        if word == stray and len(values) > 1 and option in parser._option_string_actions:
            return several_values(option.removeprefix("--"), values)
    return None


def read_command(command: str, description: str, kind: type[Options], words: Sequence[str]) -> Options:
    """Load plug-ins, then read the options of a command into the dataclass ``kind``."""
    if issubclass(kind, PluginOption):
        load_plugins(words)
    parser = make_parser(command, description)
    parser.add_arguments(kind, dest="command")
    return parse(parser, words).command


def read_open_command(
    command: str, description: str, kind: type[Options], words: Sequence[str], epilog: str
) -> tuple[Options, dict[str, Any]]:
    """Read the options of a command, and further ones that it hands on."""
    parser = make_parser(command, description, epilog=epilog)
    parser.add_arguments(kind, dest="command")
    namespace, further = parser.parse_known_args(list(words))
    return namespace.command, further_options(further)


def load_plugins(words: Sequence[str]) -> None:
    """Import each ``--plugin`` among ``words``, before parsing, since plug-ins bring names and options."""
    for plugin in value_of(words, "plugin") or []:
        load_plugin(plugin)


def further_options(words: Sequence[str]) -> dict[str, Any]:
    """Read ``--name value …`` into options that another program will check; values are YAML."""
    options: dict[str, Any] = {}
    values: list[Any] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            values = [parse_value(value)] if equals else []
            options[name] = values
        elif not options:
            raise UsageError(f"{word!r} belongs to no option")
        else:
            values.append(parse_value(word))
    return {name: values[0] if len(values) == 1 else values or True for name, values in options.items()}


def parse_value(word: str) -> Any:
    """Read a word as YAML; the word itself if that fails."""
    try:
        return parse_yaml(word)
    except ValueError:
        return word


def value_of(words: Sequence[str], option: str, many: bool = False) -> Any:
    """The last value of an option, before the real parser can be built: a list with ``many``, None if absent."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument(f"--{option}", nargs="*" if many else None, action="append" if option == "plugin" else "store")
    try:
        return getattr(finder.parse_known_args(list(words))[0], option)
    except argparse.ArgumentError as error:
        raise UsageError(f"--{option} needs a value") from error


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Write options, without None, as command-line words, so that a configuration file passes the same checks."""
    words: list[str] = []
    for name, value in options.items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
    return words


def with_options(words: Sequence[str], changes: Mapping[str, Any]) -> list[str]:
    """Give options among command-line words other values; None leaves an option out.

    >>> with_options(["--lr", "1", "--seed=3"], {"lr": 2, "seed": None})
    ['--lr', '2']
    """
    kept, changed = [], False
    for word in words:
        if word.startswith("--"):
            changed = word[2:].partition("=")[0] in changes
        if not changed:
            kept.append(word)
    return [*kept, *words_of(changes)]


def read_mapping(option: str, path: str | Path, advice: str) -> dict[str, Any]:
    """Read the mapping in the YAML file that an option names. Raises UsageError, which ends with ``advice``."""
    try:
        content = read_yaml(Path(path))
    except OSError as error:
        raise UsageError(f"--{option} {path}: {unreadable(error)}; {advice}") from error
    except ValueError as error:
        raise UsageError(f"--{option} {path}: not YAML ({error})") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UsageError(f"--{option} {path}: holds no mapping of names to values; {advice}")
    return content


def read_config(path: str | Path) -> dict[str, Any]:
    """Read options from a YAML file such as a run's ``config.yaml``. Raises UsageError."""
    options = read_mapping("config", path, "give a run's config.yaml")
    if "plugin" in options:
        raise UsageError(
            f"--config {path}: names a plugin; plug-ins are programs, so they are named on the command line only: --plugin"
        )
    for name, value in options.items():
        if any(isinstance(item, (dict, list)) for item in (value if isinstance(value, list) else [value])):
            raise UsageError(
                f"--config {path}: the option {name!r} holds a mapping or lists; options are plain values or lists"
            )
    return options
