"""Gives each row of the error index an anchor, made from its first cell, and a link to copy."""

from typing import Final

from docutils import nodes
from sphinx.application import Sphinx

PAGES: Final = {"errors"}
LONGEST: Final = 60


def anchor(text: str) -> str:
    """Return the anchor of a row: as many words of its first cell as fit."""
    made = nodes.make_id(text.replace("…", " "))
    return made if len(made) <= LONGEST else made[: made.rindex("-", 0, LONGEST)]


def add_anchors(app: Sphinx, doctree: nodes.document) -> None:
    """Give the rows of a page their anchors."""
    if app.env.docname not in PAGES:
        return
    taken = set(doctree.ids)
    for body in doctree.findall(nodes.tbody):
        for row in body.findall(nodes.row):
            first = row[0]
            name = base = anchor(first.astext())
            number = 1
            while name in taken or not name:
                number += 1
                name = f"{base or 'row'}-{number}"
            taken.add(name)
            row["ids"].append(name)
            link = nodes.reference("", "¶", refuri=f"#{name}", classes=["headerlink"])
            link["reftitle"] = "Link to this row"
            for paragraph in list(first.findall(nodes.paragraph))[:1]:
                paragraph.append(link)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the anchors, for when a page was read."""
    app.connect("doctree-read", add_anchors)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
