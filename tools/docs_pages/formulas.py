"""Formulas in LaTeX become MathML, which browsers draw without a script or a request."""

from __future__ import annotations

import re

FORMULA = re.compile(r"^\$\$(.+?)\$\$$", re.DOTALL | re.MULTILINE)


def draw_formulas(text: str) -> str:
    """Return a page whose blocks between $$ are MathML."""
    from latex2mathml.converter import convert

    def write(found: re.Match[str]) -> str:
        formula = " ".join(found[1].split())
        return f'<div class="formula">{convert(formula, display="block")}</div>'

    return FORMULA.sub(write, text)
