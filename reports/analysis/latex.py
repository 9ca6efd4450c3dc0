"""Tables as LaTeX (booktabs), to be put into a paper by ``\\input``."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable

from reports.analysis.tables import Entry, Table


def to_latex(table: Table) -> str:
    """Write a ``table`` with a label, its title as the caption, a booktabs ``tabular`` no wider than the text, and notes below."""
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{latex(table.title)}}}\label{{tab:{_label(table.name)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{''.join('r' if heading.numeric else 'l' for heading in table.headings)}}}",
        r"\toprule",
    ]
    if spans := table.grouped:
        groups = [rf"\multicolumn{{{n}}}{{c}}{{{latex(group)}}}" if group else "" for group, n in spans]
        ends = itertools.accumulate(n for _, n in spans)
        rules = [rf"\cmidrule(lr){{{end - n + 1}-{end}}}" for (group, n), end in zip(spans, ends, strict=True) if group]
        lines += [" & ".join(groups) + r" \\", "".join(rules)]
    lines.append(_row(latex(f"{h.text} {h.mark}".strip()) for h in table.headings))
    lines.append(r"\midrule")
    for position, row in enumerate(table.rows):
        if position in table.breaks:
            lines.append(r"\midrule")
        lines.append(_row(map(_cell, row)))
    lines += [r"\bottomrule", r"\end{tabular}}"]
    if table.caption:
        lines += [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize\raggedright"]
        lines += [latex(table.caption), r"\end{minipage}"]
    return "\n".join([*lines, r"\end{table}", ""])


def _row(cells: Iterable[str]) -> str:
    """A row; without {}, a [ would begin an argument of the rule or the \\\\ before it."""
    return "{} " + " & ".join(cells) + r" \\"


def _label(name: str) -> str:
    """Keep what a label may hold; an evaluation of one's own may be called anything."""
    return re.sub(r"[^A-Za-z0-9:._-]+", "-", name)


def _cell(entry: Entry) -> str:
    shown = latex(entry.paper or entry.text)
    shown = rf"\textbf{{{shown}}}" if entry.bold else rf"\underline{{{shown}}}" if entry.second else shown
    note = rf"{{\scriptsize {latex(entry.note)}}}" if entry.note else ""
    return " ".join(filter(None, (shown + latex(entry.mark), note)))


_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{letter: f"${letter}$" for letter in "<>|"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    '"': "''",
    "`": "{`}",  # ?` and !` would become other letters
    "’": "'",
    "‘": "`",
    "“": "``",
    "”": "''",
    "—": "---",
    "…": r"\dots{}",
    "\u00ad": r"\-",
    "\u00a0": "~",
    "\u202f": r"\,",
    "\u2009": r"\,",
}
#: Commands of signs in formulas.
_SIGNS = {
    **{"±": "pm", "≠": "neq", "≥": "geq", "≤": "leq", "×": "times", "·": "cdot", "÷": "div", "≈": "approx", "∼": "sim"},
    **{"√": "surd", "∞": "infty", "→": "rightarrow", "←": "leftarrow", "↑": "uparrow", "↓": "downarrow", "∈": "in"},
    **{
        "∑": "sum",
        "∏": "prod",
        "∂": "partial",
        "∇": "nabla",
        "†": "dagger",
        "‡": "ddagger",
        "•": "bullet",
    },
    **{"∥": "parallel", "∪": "cup", "∩": "cap", "∝": "propto", "≡": "equiv", "⊙": "odot", "⊗": "otimes", "⊕": "oplus"},
    **{"ϵ": "epsilon", "ς": "varsigma"},
}
#: Accents by combining letter.
_ACCENTS = {
    **{
        "\u0300": "`",
        "\u0301": "'",
        "\u0302": "^",
        "\u0303": "~",
        "\u0304": "=",
        "\u0306": "u",
        "\u0307": ".",
        "\u0308": '"',
    },
    **{"\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c", "\u0331": "b"},
}
_LETTERS = {"ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}", "⁄": "/", "œ": r"\oe{}", "Œ": r"\OE{}", "ſ": "s"}
_GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER (\w+)$")
#: Greek letters with a command by both names, and by that of the small one alone.
_GREEK_BOTH = {"gamma", "delta", "theta", "lambda", "xi", "pi", "sigma", "upsilon", "phi", "psi", "omega"}
_GREEK_SMALL = {"alpha", "beta", "epsilon", "zeta", "eta", "iota", "kappa", "mu", "nu", "rho", "tau", "chi"}
#: Greek capitals that look like Latin ones and so have no command.
_LATIN_CAPITALS = dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEZHIKMNOPTYX", strict=True)) | {"ο": "o"}


def latex(words: str) -> str:
    """Escape for LaTeX text. Signs, Greek and accented letters become commands, what pdfLaTeX cannot show becomes its code point,
    and two hyphens stay two hyphens. Letters and their combining accents may be one character or several, as in names of files
    on macOS; invisible marks of layout are left out.

    >>> latex("1/√2 of ViT-S/16 ± 3°, Erdős, α²")
    '1/$\\\\surd$2 of ViT-S/16 $\\\\pm$ 3$^\\\\circ$, Erd\\\\H{o}s, $\\\\alpha$$^{2}$'
    """
    parts = ("".join(_accented(*each) for each in _LETTER.findall(part)) for part in _composed(words).split("–"))
    return "--".join(re.sub("-(?=-)", "-{}", part) for part in parts)


#: A character and the accents that combine with it.
_LETTER = re.compile(r"(.)([\u0300-\u036f]*)", re.DOTALL)


def _composed(words: str) -> str:
    """Compose letters and accents, and leave out characters without width (joiners, directions, variants of a sign)."""
    kept = (letter for letter in words if letter == "\u00ad" or not _is_invisible(letter))
    return unicodedata.normalize("NFC", "".join(kept))


def _is_invisible(letter: str) -> bool:
    return unicodedata.category(letter) == "Cf" or "\ufe00" <= letter <= "\ufe0f"


def _accented(letter: str, accents: str) -> str:
    """A letter below its further accents, the first one nearest."""
    shown = _letter(letter)
    for accent in accents:
        shown = rf"\{_ACCENTS[accent]}{{{shown}}}" if accent in _ACCENTS else shown + _code_point(accent)
    return shown


def _code_point(letter: str) -> str:
    return f"[U+{ord(letter):04X}]"


def _letter(letter: str) -> str:
    if letter in _LATEX:
        return _LATEX[letter]
    if letter.isascii():
        return letter if letter.isprintable() else " "
    if letter == "°":
        return r"$^\circ$"
    if letter in _SIGNS:
        return rf"$\{_SIGNS[letter]}$"
    if re.match(r"[À-ÏÑ-ÖØ-Ýß-ïñ-öø-ýÿ]", letter):  # the default encoding of fonts lacks eth and thorn
        return letter
    if letter in _LETTERS or letter in _LATIN_CAPITALS:
        return _LETTERS.get(letter) or _LATIN_CAPITALS[letter]
    if greek := _GREEK.match(unicodedata.name(letter, "")):
        name = "lambda" if greek[2] == "LAMDA" else greek[2].lower()
        if greek[1] == "CAPITAL" and name in _GREEK_BOTH:
            return rf"$\{name.capitalize()}$"
        if greek[1] == "SMALL" and name in _GREEK_BOTH | _GREEK_SMALL:
            return rf"$\{name}$"
    return _decomposed(letter) or _code_point(letter)


def _decomposed(letter: str) -> str:
    """A letter that is an accented, a raised or lowered, or another form of others; "" for any other."""
    kind, *codes = unicodedata.decomposition(letter).split() or [""]
    if not codes:
        return r"$-$" if letter == "\u2212" else r"$\mu$" if letter == "µ" else ""
    if not kind.startswith("<"):
        base, accent = (chr(int(code, 16)) for code in (kind, codes[0]))
        return rf"\{_ACCENTS[accent]}{{{_letter(base)}}}" if accent in _ACCENTS else ""
    inner = "".join(_letter(chr(int(code, 16))) for code in codes)
    if kind in ("<super>", "<sub>"):
        plain = re.sub(r"^\$(.*)\$$", r"\1", inner)
        return f"${'^' if kind == '<super>' else '_'}{{{plain}}}$"
    return inner
