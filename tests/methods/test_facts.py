"""The methods' facts: the page that lists them, and the command line."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from simple_parsing.docstring import get_attribute_docstring

from methods.core.base import METHODS, Method
from training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("docs_methods", ROOT / "docs" / "methods.py")
methods = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(methods)


def test_the_page_is_of_these_methods():
    """After a change of a method's facts: ``python docs/methods.py``."""
    assert (ROOT / "docs" / "methods.md").read_text() == methods.page()


def test_every_method_that_trains_cites_its_paper():
    for name in METHODS.names():
        method = METHODS.get(name)
        assert method.title, name
        assert method.citation or not method.trains or name == "supervised", name
        assert not method.trains or methods.differences(method) != "–", name


def test_help_lists_every_method():
    help_words = subprocess.run([sys.executable, ROOT / "run.py", "--help"], capture_output=True, text=True).stdout
    for name in METHODS.names():
        assert f"\n  {name}" in help_words and METHODS.facts(name)["title"] in help_words


def test_help_names_the_methods_that_differ_in_warm_up_and_decay():
    for option, fact in (("warmup_epochs", "warmup"), ("weight_decay", "decays_all")):
        words = re.findall(r"\w+", get_attribute_docstring(TrainConfig, option).docstring_below)
        others = [name for name in METHODS.names() if getattr(METHODS.get(name), fact) != getattr(Method, fact)]
        assert [word for word in words if word in METHODS.names()] == others, option
