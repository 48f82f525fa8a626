"""LaTeX as MathML, which browsers draw without a script: the site asks no other host for anything."""

import html
import re

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(?P<tag>div|span) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.S)


def drawn(page: str) -> str:
    """A page whose formulas are MathML.

    Raises:
        ValueError: a command that the converter does not know.
    """

    def one(match: re.Match[str]) -> str:
        latex = " ".join(html.unescape(match["latex"]).split())
        latex = latex.replace(r"\Big\lVert", r"\left\lVert").replace(r"\Big\rVert", r"\right\rVert")
        formula = convert(latex, display="block" if match["tag"] == "div" else "inline")
        if "\\" in formula:
            raise ValueError(f"no MathML for a part of {latex}: {formula}")
        return str(formula)

    return FORMULA.sub(one, page)
