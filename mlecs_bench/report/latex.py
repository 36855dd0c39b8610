"""Tables and whole reports as LaTeX in plain ASCII, for pdflatex and packages that every distribution has."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from mlecs_bench.report.table import ABSENT, Claim, Content, Figure, Line, Number, Report, Section, Table

EMPTY = "This table has no lines."
COLUMN_WIDTH = 240.0
"""Points of one column of a two-column page; a wider table spans the page."""
CHARACTER, SMALL_CHARACTER, COLUMN_GAP = 4.4, 3.9, 6.0
"""Points, about, of a character of a table's text, of one of its small text, and between two columns."""
CLAIM_WIDTHS = {"where": 0.13, "claim": 0.24, "printed": 0.13, "measured": 0.16, "verdict": 0.10, "reason": 0.24}
"""What the columns of claims take of the width of the page, the space between them aside."""

_PREAMBLE = r"""\documentclass[a4paper,10pt]{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage[landscape,margin=18mm]{geometry}
\usepackage{array,booktabs,graphicx,longtable}
\setlength{\parindent}{0pt}
\setlength{\parskip}{0.5\baselineskip}
\makeatletter
\setlength{\@fptop}{0pt}
\setlength{\@fpsep}{2\baselineskip}
\makeatother"""

_GREEK = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ"
_GREEK_NAMES = (
    "alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon varphi chi "
    "psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
)
_MATHS = {
    "±": "pm", "×": "times", "≤": "le", "≥": "ge", "≠": "ne", "≈": "approx", "→": "rightarrow", "←": "leftarrow",
    "↑": "uparrow", "↓": "downarrow", "∞": "infty", "·": "cdot", "•": "bullet", "∈": "in", "∑": "sum", "µ": "mu",
    "«": "ll", "»": "gg",
}  # fmt: skip
_COMMANDS = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": r"\`{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}", "*": "{*}",
    "–": "--", "—": "---", "…": r"\ldots{}", "“": "``", "”": "''", "‘": "`", "’": "'", "−": "$-$", "°": r"$^{\circ}$",
    "¹": "$^{1}$", "²": "$^{2}$", "³": "$^{3}$", "§": r"\S{}", "©": r"\copyright{}", "†": r"\dag{}", "‡": r"\ddag{}",
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "ø": r"\o{}", "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}",
}  # fmt: skip
_CHARACTERS = {
    **{character: f"\\{character}" for character in "_&%#${}"},
    **{letter: f"$\\{name}$" for letter, name in zip(_GREEK, _GREEK_NAMES.split(), strict=True)},
    **{character: f"$\\{name}$" for character, name in _MATHS.items()},
    **_COMMANDS,
}
_LIGATURES = r"(?<=-)(?=-)|(?<=')(?=')|(?<=,)(?=,)"
"""Where LaTeX would make one character of two."""
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip


def table_latex(table: Table) -> str:
    """Return a table as one float with its label tab:NAME, for a document with booktabs and graphicx.

    Its text is of the size of footnotes, which most tables of scores need to fit a page; a table that is wider than
    the text even so is scaled down to it.
    """
    environment = "table*" if _natural_width(table) > COLUMN_WIDTH else "table"
    body = _fitted(_tabular(table)) if table.lines else EMPTY
    return _lines(
        r"% needs \usepackage{booktabs,graphicx}",
        f"\\begin{{{environment}}}[!htbp]",
        r"\centering",
        _caption(table.title, table.setting, table.caption, table.honest),
        f"\\label{{tab:{table.name}}}",
        r"\par\smallskip\footnotesize",
        body,
        *_notes((*table.legend(), *table.notes)),
        f"\\end{{{environment}}}",
    )


def report_latex(report: Report) -> str:
    """Return a whole document; its tables are the files NAME.tex, its figures NAME.pdf or NAME.png beside it."""
    title = f"{{\\LARGE\\bfseries {_text(report.title)}\\par}}"
    start = [title, *_paragraphs(report.about), _bold(report.honest), *_warnings(report.warnings)]
    sections = [part for section in report.sections for part in _section(section)]
    parts = [_PREAMBLE, r"\begin{document}", *start, *sections, r"\end{document}"]
    return _lines(*filter(None, parts))


def _lines(*parts: str) -> str:
    return "\n".join(parts) + "\n"


def _section(section: Section) -> Iterator[str]:
    yield f"\\section{{{_text(section.title)}}}"
    yield from _paragraphs(section.about)
    yield from (f"\\input{{{table.name}.tex}}" for table in section.tables)
    yield from (part for figure in section.figures for part in _figure(figure))
    if section.tables or section.figures:
        yield r"\clearpage"  # else floats pile up until there are too many
    if section.claims:
        yield from _claims(section.claims)


def _figure(figure: Figure) -> list[str]:
    format_ = "pdf" if "pdf" in figure.files else "png"
    image = f"\\includegraphics{{{figure.name}.{format_}}}"
    caption = _caption(figure.title, "", figure.caption, "")
    label = f"\\label{{fig:{figure.name}}}"
    return [r"\begin{figure}[!htbp]", r"\centering", _fitted(image), caption, label, r"\end{figure}"]


def _fitted(content: str) -> str:
    """Return a box that is scaled down where it is wider than the text, or too high for its caption on the page."""
    height = r"\resizebox*{!}{\ifdim\totalheight>0.75\textheight 0.75\textheight\else\totalheight\fi}"
    width = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}"
    return f"{height}{{%\n{width}{{%\n{content}%\n}}}}"


def _caption(title: str, setting: str, caption: str, honest: str) -> str:
    parts = (_bold(f"{_own_title(title, setting)}."), _text(caption), _bold(honest))
    return f"\\caption{{{' '.join(filter(None, parts))}}}"


def _own_title(title: str, setting: str) -> str:
    """Return a title that may stand behind LaTeX's own number: a number that it has already moves to its end."""
    words = title.rstrip(".")
    numbered = re.fullmatch(r"((?:Table|Figure) \w+): (\w)(.*)", words)
    if numbered:
        words = numbered[2].upper() + numbered[3]
    asides = [setting, numbered[1] if numbered else ""]
    return f"{words} ({'; '.join(filter(None, asides))})" if any(asides) else words


def _notes(notes: Sequence[str]) -> list[str]:
    if not notes:
        return []
    paragraphs = "\\par\n".join(map(_text, notes))
    start = "\\par\\smallskip\n\\begin{minipage}{\\linewidth}\\footnotesize\\raggedright"
    return [start, paragraphs, r"\end{minipage}"]


def _natural_width(table: Table) -> float:
    """Return about how many points wide a table is, in the font of LaTeX."""
    places = range(len(table.left))
    labels = [[table.left[i], *(line.labels[i] for line in table.lines)] for i in places]
    labels[-1:] = [[*texts, *(line.labels[-1] + _aside(line) for line in table.lines)] for texts in labels[-1:]]
    widths = [CHARACTER * max(map(len, texts)) for texts in labels]
    for i, path in enumerate(table.columns):
        contents = (_content_width(line, line.contents[i]) for line in table.lines)
        widths.append(max(CHARACTER * len(path[-1] if path else ""), *contents, 0.0))
    return sum(widths) + COLUMN_GAP * (len(widths) - 1)


def _content_width(line: Line, content: Content | None) -> float:
    if not isinstance(content, Number):
        return CHARACTER * len(content or ABSENT)
    beside = f"{content.printed}, {content.difference}" if content.printed else ""
    own = CHARACTER * len(content.mean) + SMALL_CHARACTER * len(_behind(content, line))
    return max(own, SMALL_CHARACTER * len(beside))


def _tabular(table: Table) -> str:
    columns = list(zip(*(line.contents for line in table.lines), strict=True))
    align = "l" * len(table.left) + "".join("l" if _is_words(column) else "r" for column in columns)
    start = [r"\setlength{\tabcolsep}{3pt}%", f"\\begin{{tabular}}{{@{{}}{align}@{{}}}}", r"\toprule"]
    return "\n".join([*start, *_headings(table), r"\midrule", *_body(table), r"\bottomrule", r"\end{tabular}"])


def _is_words(column: Iterable[Content | None]) -> bool:
    """Does a column hold words and no number?"""
    there = [content for content in column if content is not None]
    return bool(there) and all(isinstance(content, str) for content in there)


def _headings(table: Table) -> Iterator[str]:
    """Yield a row per level of headings; those that columns have in common span them, over a rule."""
    paths = [(*path[:-1], *[""] * (table.depth - len(path)), path[-1]) for path in table.columns]
    for level in range(1, table.depth):
        yield from _shared_headings([path[:level] for path in paths], len(table.left))
    yield _row([*map(_text, table.left), *(_text(path[-1]) for path in paths)])


def _shared_headings(paths: Sequence[tuple[str, ...]], before: int) -> Iterator[str]:
    """Yield the row of the last headings of `paths` and the rules below it; `before` columns have none."""
    cells, rules, last = [""] * before, [], before
    for path, members in groupby(paths):
        first, last = last + 1, last + len(list(members))
        if path[-1]:
            cells.append(f"\\multicolumn{{{last - first + 1}}}{{c}}{{{_text(path[-1])}}}")
            rules.append(f"\\cmidrule(lr){{{first}-{last}}}")
        else:
            cells += [""] * (last - first + 1)
    if rules:
        yield _row(cells)
        yield " ".join(rules)


def _body(table: Table) -> Iterator[str]:
    above: Line | None = None
    for line in table.lines:
        if above and (above.group != line.group or line.opens):
            yield r"\midrule"
        if line.opens:
            width = len(table.left) + len(table.columns)
            yield _row([f"\\multicolumn{{{width}}}{{@{{}}l}}{{\\textit{{{_text(line.opens)}}}}}"])
        yield from _rows(line, above)
        above = line


def _rows(line: Line, above: Line | None) -> Iterator[str]:
    """Yield the row of a line, and one with the published values below it where there are any."""
    numbers = [content if isinstance(content, Number) else None for content in line.contents]
    printed = any(number and number.printed for number in numbers)
    row = _row([*_labels(line, above), *(_content(content, line) for content in line.contents)])
    yield row + "[-0.3ex]" if printed else row
    if printed:
        sources = ", ".join(dict.fromkeys(n.published.source for n in numbers if n and n.published))
        labels = [*[""] * (len(line.labels) - 1), rf"\quad\scriptsize {_text(sources)}, difference"]
        yield _row([*labels, *(_beside(number) if number and number.printed else "" for number in numbers)])


def _labels(line: Line, above: Line | None) -> list[str]:
    """Return the labels of a line; of those before the last, one that stands right above in the group is left out."""
    same = 0
    if above and above.group == line.group:
        pairs = zip(line.labels[:-1], above.labels[:-1], strict=True)
        same = next((i for i, (own, other) in enumerate(pairs) if own != other), len(line.labels) - 1)
    texts = [_text(label) for label in line.labels]
    if line.reference:
        texts = [f"\\textit{{{text}}}" if text else "" for text in texts]
    aside = _aside(line)
    texts[-1] += f"{{\\scriptsize{aside}}}" if aside else ""
    return [*[""] * same, *texts[same:]]


def _aside(line: Line) -> str:
    """Return what stands behind the last label: that it is a reference, how many seeds all numbers of the line have."""
    lacking = _lacking(line)
    return (" (reference)" if line.reference else "") + (f" ({lacking})" if lacking else "")


def _lacking(line: Line) -> str:
    """Return how many of the expected seeds all numbers of a line have, "" where they differ or none is missing."""
    found = {content.lacking for content in line.contents if isinstance(content, Number) and not content.repeats}
    return found.pop() if len(found) == 1 else ""


def _behind(number: Number, line: Line) -> str:
    """Return what stands behind a mean: its spread, and how many seeds where its line does not say it."""
    return number.spread.replace(" ", "") + (
        f" ({number.lacking})" if number.lacking not in ("", _lacking(line)) else ""
    )


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _content(content: Content | None, line: Line) -> str:
    if content is None:
        return ABSENT
    if isinstance(content, str):
        return _text(content)
    rest = _behind(content, line)
    return _marked(_signed(content.mean), content) + (f"{{\\scriptsize\\,{_text(rest)}}}" if rest else "")


def _marked(value: str, number: Number) -> str:
    if number.best:
        return f"\\textbf{{{value}}}"
    return f"\\underline{{{value}}}" if number.close else value


def _beside(number: Number) -> str:
    """Return what is published, with the marks of its footnotes, and the difference to it if there is one."""
    marks = number.published.marks if number.published else ""
    raised = f"\\textsuperscript{{{_text(marks)}}}" if marks else ""
    difference = f", {_signed(number.difference)}" if number.difference else ""
    return f"\\scriptsize {_signed(number.printed)}{raised}{difference}"


def _signed(text: str) -> str:
    """Return a number's characters with a minus in place of each hyphen."""
    return _text(text.replace("-", "−"))


def _claims(claims: Sequence[Claim]) -> Iterator[str]:
    gaps = 2 * len(CLAIM_WIDTHS) - 2
    columns = "%\n".join(
        f">{{\\raggedright\\arraybackslash}}p{{\\dimexpr {width}\\linewidth-{width * gaps:.2f}\\tabcolsep\\relax}}"
        for width in CLAIM_WIDTHS.values()
    )
    yield r"{\footnotesize"
    yield f"\\begin{{longtable}}{{@{{}}{columns}@{{}}}}"
    yield "\\toprule\n" + _row(CLAIM_WIDTHS) + "\n\\midrule\n\\endhead\n\\bottomrule\n\\endlastfoot"
    rows = [_row(_text(getattr(claim, name)) for name in CLAIM_WIDTHS) for claim in claims]
    yield "\n\\addlinespace\n".join(rows)
    yield "\\end{longtable}}\n\\clearpage"


def _warnings(warnings: Sequence[str]) -> list[str]:
    items = [f"\\item Warning: {_text(warning)}" for warning in warnings]
    return [r"\begin{itemize}", *items, r"\end{itemize}"] if items else []


def _paragraphs(text: str) -> list[str]:
    return [_text(paragraph) + "\\par" for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()]


def _bold(text: str) -> str:
    return f"\\textbf{{{_text(text)}}}" if text else ""


def _text(text: str) -> str:
    """Return plain words as one line of LaTeX that prints them as they are, in ASCII."""
    line = unicodedata.normalize("NFC", " ".join(text.split()))
    return "{}".join("".join(map(_character, part)) for part in re.split(_LIGATURES, line))


def _character(character: str) -> str:
    """Return one character; what LaTeX has no command for is named by its code point."""
    if character in _CHARACTERS:
        return _CHARACTERS[character]
    if character.isascii() and character.isprintable():
        return character
    decomposed = unicodedata.normalize("NFD", character)
    letter, accent = decomposed[0], _ACCENTS.get(decomposed[1:])
    if accent and letter.isascii() and letter.isalpha():
        return f"\\{accent}{{{letter}}}"
    return f"{{[}}U+{ord(character):04X}{{]}}"
