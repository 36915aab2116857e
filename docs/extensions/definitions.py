"""The API page's view of docstrings: what they define as ``name: meaning`` becomes a list, one item per name.

In the code such definitions run on, as sentences of a paragraph. mkdocstrings loads this file (see mkdocs.yml).
"""

import re
from typing import Any

import griffe

# Lower-case names after a full stop or at a line's start, and a colon: no sentence of prose begins like that.
DEFINITION = re.compile(r"(?:(?<=[.;]) +|^)(?P<names>[a-zX]\w*(?:, [a-zX]\w*)*): (?=\S)", re.MULTILINE)


def listed(text: str) -> str:
    """Markdown in which every paragraph that holds definitions ends in a list of them."""
    return "\n\n".join(_paragraph(paragraph) for paragraph in re.split(r"\n{2,}", text))


def _paragraph(text: str) -> str:
    found = list(DEFINITION.finditer(text))
    if not found or text.lstrip().startswith(("- ", "```")):
        return text
    ends = [*(match.start() for match in found[1:]), len(text)]
    items = [
        f"- **{match['names']}**: {' '.join(text[match.end() : end].split())}"
        for match, end in zip(found, ends, strict=True)
    ]
    return "\n\n".join(part for part in (text[: found[0].start()].rstrip(), "\n".join(items)) if part)


class Definitions(griffe.Extension):
    """Rewrites each docstring as it is read; nothing is imported, and the code stays as it is."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value)
