"""Tables as files: what they hold, what is escaped, and that LaTeX reads it."""

import csv
import dataclasses
import io
import re
import shutil
import subprocess

import numpy as np
import pytest

from reports.analysis.latex import latex, to_latex
from reports.analysis.tables import (
    Entry,
    Heading,
    Table,
    _csv_value,
    fixed,
    headings_of,
    markdown,
    number,
    text,
    to_csv,
    to_markdown,
)

NASTY = (
    r"""a_b & 50% #1 $x^2$ ~{y} \end{tabular} | "q" <script>alert('x')</script> `c` -- [z] – ± ≠ é 中 """ + "\x07\n!`?`"
)


@pytest.fixture
def table() -> Table:
    headings = [Heading("Name"), Heading("top-1", numeric=True, mark="≠", group="k-NN"), Heading("n", numeric=True)]
    rows = [
        [
            text("[plain]"),
            Entry("71.3 ± 0.4", 71.3, note="[70.3, 72.3]", bold=True, mark="≠", numbers={"": 71.3, "std": 0.4}),
            number(1200, str),
        ],
        [text(NASTY), Entry("–"), number(None, str)],
    ]
    return Table("results", "Results: " + NASTY, "Caption, " + NASTY, headings, rows, frozenset({1}))


def test_csv_holds_full_numbers(table):
    rows = list(csv.reader(io.StringIO(to_csv(table))))
    assert rows[0] == ["Name", "k-NN top-1", "k-NN top-1 std", "n"]
    assert rows[1] == ["[plain]", "71.3", "0.4", "1200"]
    assert rows[2] == [NASTY, "", "", ""]


def test_csv_numbers_have_the_digits_that_are_known():
    """Seven, as float32 has, for every type of number, and none that comes from its conversion."""

    def written(value) -> str:
        return to_csv(Table("t", "", "", [Heading("n")], [[Entry("", value)]])).split("\n")[1]

    rng = np.random.default_rng(0)
    short = [80.4, 0.1, 99.97, 1e-9, 1234567.0, 3e8, 2.0**40]
    for value in [*short, *(10.0 ** rng.uniform(-8, 8, 200) * rng.normal(size=200))]:
        texts = [written(kind(value)) for kind in (float, np.float32, np.float64)]
        assert len(set(texts)) == 1 or value not in short, texts
        for text_ in texts:
            assert float(text_) == pytest.approx(value, rel=6e-7)
            assert float(text_).is_integer() or len(re.sub(r"e.*|[-.]", "", text_).strip("0")) <= 7, text_
    assert [_csv_value(value) for value in (-0.0, True, 7, np.int64(7), None, "a")] == ["0", True, 7, 7, "", "a"]
    assert written(float(np.float32(80.4))) == "80.4"


@pytest.mark.parametrize(
    "value", [48.449999999999996, 0.12499999999999999, -2.0499999999999998, 71.35, 1e-9, 123456.05]
)
def test_words_and_files_round_alike(value):
    cell = number(value, "{:.1f}".format)
    file = to_csv(Table("t", "T", "", headings_of(["x"]), [[cell]])).splitlines()[1]
    assert cell.text == fixed(value, 1) == f"{float(file):.1f}"
    assert fixed(value, 2) == f"{float(file):.2f}"
    assert cell.value == value  # rows are sorted by the unrounded number


def test_markdown_keeps_its_columns(table):
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4}
    assert "**71.3 ± 0.4** ≠ \\[70.3, 72.3\\]" in lines[2]
    assert "\\<script\\>" in lines[3]
    assert markdown("a|b*c") == r"a\|b\*c"


def test_latex_escapes(table):
    assert latex("50% & a_b #1 {x}") == r"50\% \& a\_b \#1 \{x\}"
    assert latex("–") == "--"
    assert latex("a--b") == "a-{}-b"
    assert latex("中") == "[U+4E2D]"
    written = to_latex(table)
    assert r"\textbf{71.3 $\pm$ 0.4}$\neq$" in written
    assert r"\cmidrule(lr){2-2}" in written
    assert written.count(r"\midrule") == 2


def escaped(stop: int) -> dict[str, str]:
    """What the characters before ``stop`` become, with one that does; lone surrogates stand for bytes in names."""
    return {latex(letter): letter for letter in map(chr, range(stop))}


@pytest.mark.parametrize("stop", [0x3000, pytest.param(0x110000, marks=pytest.mark.slow)])
def test_every_character_becomes_text_that_tex_takes(stop):
    for shown, letter in escaped(stop).items():
        assert re.fullmatch(r"[\x20-\x7eÀ-ÖØ-öø-ÿ]*", shown) and not re.search("[ÐÞðþ]", shown), hex(ord(letter))
        bare = re.sub(r"\\[&%$#_{}]", "", shown)
        assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0, hex(ord(letter))
        outside = re.sub(r"\\[~^]", "", re.sub(r"\$[^$]*\$", "", bare))  # of formulas and accents
        assert shown == "~" or not re.search(r"[&%#~^_]", outside), hex(ord(letter))


def test_every_character_compiles_wherever_a_table_may_have_it(tmp_path):
    letters = [letter for shown, letter in escaped(0x3000).items() if "[U+" not in shown] + ["中", "\udcff", "\u0301"]
    parts = [" ".join(letters[start : start + 40]) for start in range(0, len(letters), 40)]
    cells = [[text(f"{letter}x"), text("y")] for letter in ("[", "中", "*", "\\", "~", "-", "é", "α")]
    headings = headings_of(["[中]", "# & % $ _ ^ ~ \\ { }"])
    hostile = Table("a b#%$&_{}~^\\é中", "–[中] 1/√2 % # é", "[中] % {", headings, cells)
    compile_latex(tmp_path, "\\raggedright\n" + "\n\n".join(map(latex, parts)), to_latex(hostile))


def test_letters_may_be_composed_or_not():
    assert latex("e\u0301") == latex("é") == "é" and latex("Erdo\u030bs") == r"Erd\H{o}s"
    assert latex("x\u0304") == r"\={x}" and latex("=\u0338") == r"$\neq$"
    assert latex("a\u200b\u2060\ufeffb✔\ufe0f") == "ab[U+2714]"
    assert latex("Ϝϟ") == "[U+03DC][U+03DF]"  # letters of old numerals, without a command


def compile_latex(folder, *tables: str) -> None:
    """Compile tables as a document; skips without a TeX engine."""
    engine = shutil.which("pdflatex") or shutil.which("tectonic")
    if engine is None:
        pytest.skip("no pdflatex or tectonic on the PATH: apt-get install texlive-latex-recommended")
    for number_, table in enumerate(tables):
        (folder / f"table{number_}.tex").write_text(table)
    inputs = "\n".join(rf"\input{{table{number_}.tex}}\clearpage" for number_ in range(len(tables)))
    document = rf"\documentclass{{article}}\usepackage{{booktabs,graphicx}}\begin{{document}}{inputs}\end{{document}}"
    (folder / "document.tex").write_text(document)
    words = [engine, *(["-interaction=nonstopmode", "-halt-on-error"] if "pdflatex" in engine else []), "document.tex"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "document.pdf").read_bytes().startswith(b"%PDF")
    log = folder / "document.log"  # pdflatex's
    assert not log.exists() or "Overfull \\hbox" not in log.read_text(errors="replace")


def test_latex_compiles(table, tmp_path):
    compile_latex(tmp_path, to_latex(table))


def test_a_wide_table_stays_within_the_text(table, tmp_path):
    wide = dataclasses.replace(table, headings=8 * table.headings, rows=[8 * row for row in table.rows])
    compile_latex(tmp_path, to_latex(wide))


def test_spreadsheets_compute_nothing():
    names = ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "  =1", "a;=1", "a\n=1", "＝1", "harmless - text", "1-2"]
    table = Table(
        "x", "x", "x", [Heading("=1"), Heading("number", numeric=True)], [[text(n), Entry("−1", -1.5)] for n in names]
    )
    rows = list(csv.reader(io.StringIO(to_csv(table))))
    assert rows[0] == ["'=1", "number"]
    assert [cell for cell, _ in rows[1:]] == [
        *("'=1+1", "'+1", "'-2+3", "'@SUM(A1)", "'\t'=1", "'  =1", "a;'=1", "a\n'=1", "'＝1", "harmless - text", "1-2"),
    ]
    assert {number for _, number in rows[1:]} == {"-1.5"}
