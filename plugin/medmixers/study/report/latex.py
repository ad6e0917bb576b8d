"""Tables as LaTeX, for booktabs."""

from __future__ import annotations

from collections.abc import Sequence

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "\n": " ",
}  # fmt: skip


def escaped(text: str) -> str:
    """Text whose characters LaTeX prints as they are."""
    return "".join(SPECIAL.get(character, character) for character in text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table with its caption; the first column is text, the others are numbers."""
    lines = [
        r"\begin{table}",
        rf"\caption{{{escaped(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        *(
            " & ".join(map(escaped, cells)) + r" \\" + (r" \midrule" if number == 0 else "")
            for number, cells in enumerate([head, *rows])
        ),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"
