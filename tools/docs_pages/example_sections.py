"""Sections called "Example:" are read as examples, whose code is shown as code.

mkdocstrings loads this file. Its reader of Google style knows the word "Examples:" alone, and would
show the prompts of an example as quotations.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Docstring, Extension, Object

EXAMPLE = re.compile(r"^(\s*)Example:$", re.MULTILINE)


class ExampleSections(Extension):
    """Gives the sections of all docstrings the name that the reader knows."""

    def on_instance(self, *, node: Any, obj: Object, **_: Any) -> None:
        """Change the docstring of an object that was read from the source."""
        if isinstance(obj.docstring, Docstring):
            obj.docstring.value = EXAMPLE.sub(r"\1Examples:", obj.docstring.value)
