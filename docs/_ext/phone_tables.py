"""Shows each row of a table as a card on a phone: each cell gets its column's title, which the style shows."""

import html
import re
from typing import Any, Final

from docutils import nodes
from sphinx.application import Sphinx

TABLE: Final = re.compile(r'<table class="docutils.*?</table>', re.DOTALL)
HEAD: Final = re.compile(r"<th\b.*?</th>", re.DOTALL)
ROW: Final = re.compile(r"<tr\b.*?</tr>", re.DOTALL)


def text_of(cell: str) -> str:
    """Return the text of a cell, as the value of an attribute."""
    return html.escape(html.unescape(re.sub("<[^>]+>", "", cell)).strip())


def labelled(table: re.Match[str]) -> str:
    """Return the table with the column's title at each cell. A table of figures is not changed."""
    titles = [text_of(head) for head in HEAD.findall(table[0])]
    if "text-right" in table[0]:
        return table[0]

    def row(found: re.Match[str]) -> str:
        first, *cells = found[0].split("<td")
        return first + "".join(
            f'<td data-label="{title}"{"" if text_of("<td" + cell) else " data-empty"}{cell}'
            for title, cell in zip(titles, cells, strict=True)
        )

    stacked = re.sub('^<table class="', '<table class="stacked ', table[0])
    return ROW.sub(lambda found: row(found) if "<td" in found[0] else found[0], stacked)


def label_cells(
    _app: Sphinx, _page: str, _template: str, context: dict[str, Any], _doctree: nodes.document | None
) -> None:
    """Label the cells of a page's tables."""
    if "body" in context:
        context["body"] = TABLE.sub(labelled, context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the labelling, for when a page is written."""
    app.connect("html-page-context", label_cells)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
