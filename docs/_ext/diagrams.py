"""The directive `diagram`: turns a drawing of box characters into an SVG when the documentation is built.

The drawing stays readable as text, on a code host too, and a test can compare it with a docstring. Nothing is fetched
when the pages are built or read.
"""

import re
from collections.abc import Iterator
from html import escape
from typing import Final

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

WIDTH: Final = 8.4
HEIGHT: Final = 19.0
"""The size of one character's cell."""
MARGIN: Final = 10.0
_LINES: Final = {
    "─": "lr", "│": "ud", "┌": "rd", "┐": "ld", "└": "ru", "┘": "lu", "├": "rud", "┤": "lud", "┬": "lrd", "┴": "lru",
    "┼": "lrud", "═": "lr", "╞": "rud", "╡": "lud", "╪": "lrud",
}  # fmt: skip
"""The sides of the cell to which a character draws from the middle."""
_ARROWS: Final = {"►": (1, 0), "◄": (-1, 0), "▼": (0, 1), "▲": (0, -1)}
_WORDS: Final = re.compile(rf"[^\s{''.join(_LINES)}{''.join(_ARROWS)}]+(?: [^\s{''.join(_LINES)}{''.join(_ARROWS)}]+)*")


def svg(drawing: str, states: frozenset[str], title: str) -> str:
    """Return the drawing as an SVG. Words that are `states` get their own box."""
    rows = drawing.rstrip().splitlines()
    width = max(map(len, rows)) * WIDTH + 2 * MARGIN
    height = len(rows) * HEIGHT + 2 * MARGIN
    parts = [part for y, row in enumerate(rows) for part in (*_lines(row, y), *_words(row, y, states))]
    return (
        f'<svg class="diagram" role="img" aria-label="{escape(title)}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="width: {width:.0f}px" xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>'
        f"{''.join(parts)}</svg>"
    )


def _middle(x: int, y: int) -> tuple[float, float]:
    return MARGIN + (x + 0.5) * WIDTH, MARGIN + (y + 0.5) * HEIGHT


def _lines(row: str, y: int) -> Iterator[str]:
    for x, character in enumerate(row):
        cx, cy = _middle(x, y)
        ends = {
            "l": (cx - WIDTH / 2, cy),
            "r": (cx + WIDTH / 2, cy),
            "u": (cx, cy - HEIGHT / 2),
            "d": (cx, cy + HEIGHT / 2),
        }
        if character in _LINES:
            kind = "thick" if character in "═╞╡╪" else "line"
            path = "".join(f"M{cx:.1f} {cy:.1f}L{ends[to][0]:.1f} {ends[to][1]:.1f}" for to in _LINES[character])
            yield f'<path class="{kind}" d="{path}"/>'
        elif character in _ARROWS:
            dx, dy = _ARROWS[character]
            tip = (cx + dx * WIDTH / 2, cy + dy * HEIGHT / 2)
            back = (cx - dx * WIDTH / 2, cy - dy * HEIGHT / 2)
            base = (tip[0] - dx * 8, tip[1] - dy * 8)
            wings = ((base[0] - dy * 4, base[1] - dx * 4), (base[0] + dy * 4, base[1] + dx * 4))
            points = " ".join(f"{px:.1f},{py:.1f}" for px, py in (tip, *wings))
            yield f'<path class="line" d="M{back[0]:.1f} {back[1]:.1f}L{base[0]:.1f} {base[1]:.1f}"/>'
            yield f'<polygon class="head" points="{points}"/>'


def _words(row: str, y: int, states: frozenset[str]) -> Iterator[str]:
    for found in _WORDS.finditer(row):
        for word in re.finditer(r"\S+" if states else ".+", found[0]):
            x, length = MARGIN + (found.start() + word.start()) * WIDTH, len(word[0]) * WIDTH
            middle = MARGIN + (y + 0.5) * HEIGHT
            kind = "word"
            if word[0] in states:
                kind = "state"
                yield (
                    f'<rect class="box" x="{x - 4:.1f}" y="{middle - HEIGHT / 2 + 0.5:.1f}" width="{length + 8:.1f}" '
                    f'height="{HEIGHT - 1:.1f}" rx="5"/>'
                )
            yield (
                f'<text class="{kind}" x="{x:.1f}" y="{middle + 4.2:.1f}" textLength="{length:.1f}" '
                f'lengthAdjust="spacingAndGlyphs">{escape(word[0])}</text>'
            )


class Diagram(SphinxDirective):
    """A drawing. Its argument is the title for readers who cannot see it."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec = {"states": directives.unchanged}  # noqa: RUF012 - as in docutils

    def run(self) -> list[nodes.Node]:
        """Return the picture. Builders other than HTML show the text."""
        text = "\n".join(self.content)
        states = frozenset(str(self.options.get("states", "")).split())
        picture = nodes.raw("", svg(text, states, self.arguments[0]), format="html")
        if self.env.app.builder.format == "html":
            return [nodes.container("", picture, classes=["diagram"])]
        return [nodes.literal_block(text, text)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("diagram", Diagram)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
