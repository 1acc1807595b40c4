"""The error index has every reason, log line and error that a user may see, and no removed one."""

import ast
import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from docutils.nodes import make_id

import butter_middleware
from butter_middleware.client_ip import Reason
from butter_middleware.errors import ERROR_INDEX
from butter_middleware.events import Event
from butter_middleware.models.reasons import ParkReason, Skip

PACKAGE = Path(butter_middleware.__file__).parent
INDEX = " ".join((PACKAGE.parent / "docs/errors.md").read_text().split())
ELSEWHERE = {"cli", "sandbox", "testing", "backfill"}
"""Modules whose messages are for the person who runs them. They have separate pages."""
SPEAKS = {
    *("critical", "error", "info", "warning", "raise_", "_warn"),  # a logger, or a function that calls it
    *("_become", "_hold", "_open"),  # the endpoint's states
    *("Parked", "ReadResult"),  # objects whose text is logged or raised
    *(kind.__name__ for kind in get_args(Event)),
}
"""Functions and classes that get a text as an argument."""
TOLD = {
    *("detail", "message", "msg", "problem", "remedy", "said", "text", "warning", "where"),
    *("EXPIRED", "FULL", "SEVERAL_ADDRESSES", "_NO_ROUTES"),
}
"""Variables and arguments that have a text."""
INTERNAL = {"not an IPv4 address", "not an e-mail address", "the file is not open"}
"""Texts that users do not see."""
LONGEST = 60
"""The length of an anchor."""
LEAST = 12
"""The least length of a part that identifies a text."""


def template(node: ast.AST) -> str:
    """Return a text with an ellipsis for each variable part, or "" if the node is not a text."""
    match node:
        case ast.Constant(value=str(text)):
            return re.sub(r"%[ds]", "…", text)
        case ast.JoinedStr(values=values):
            return "".join(template(value) if isinstance(value, ast.Constant) else "…" for value in values)
        case _:
            return ""


def spoken(node: ast.AST) -> Iterator[ast.AST | None]:
    """Yield the nodes that may be the text of an error, a log line or a warning."""
    match node:
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=value) | ast.AnnAssign(target=ast.Name(id=name), value=value)
        ):
            if name in TOLD:
                yield value
            elif name == "_REMEDIES" and isinstance(value, ast.Dict) and "Skip." in ast.unparse(value):
                yield from value.values  # the other texts come after the code of a reason
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in SPEAKS:
            yield from (*node.args, *(keyword.value for keyword in node.keywords))
        case ast.FunctionDef(name="warnings" | "_problems" | "_remedy" | "broken_extractor" | "weakness"):
            yield from (found.value for found in ast.walk(node) if isinstance(found, ast.Yield | ast.Return))
        case _:
            pass


def choices(node: ast.AST) -> Sequence[ast.AST]:
    """Return the expressions, one of which is the node's value."""
    match node:
        case ast.BoolOp(values=values):
            return values
        case ast.IfExp(body=body, orelse=otherwise):
            return [body, otherwise]
        case _:
            return [node]


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def texts(*, anywhere: bool) -> Iterator[str]:
    """Yield every text that a user may see, or every text `anywhere` in the package."""
    for path in PACKAGE.rglob("*.py"):
        if anywhere or path.relative_to(PACKAGE).parts[0].removesuffix(".py") not in ELSEWHERE:
            found = nodes(path)
            said = found if anywhere else [value for node in found for value in spoken(node) if value is not None]
            yield from (text for value in said for node in choices(value) if " " in (text := template(node)))


def telling(text: str) -> str:
    """Return the first fixed clause of a text's first sentence that is long enough."""
    clauses = (part.strip(" .,'()") for part in re.split("…|[:;] ", text.split(". ", 1)[0]))
    return next((clause for clause in clauses if len(clause) >= LEAST), "")


def anchors() -> set[str]:
    """Return the anchors of the index's rows, as `docs/_ext/row_anchors.py` makes them."""
    page = (PACKAGE.parent / "docs/errors.md").read_text()
    cells = re.findall(r"^\| (.*?) \|", page, re.MULTILINE)
    made = [make_id(cell.replace("`", "").replace("…", " ")) for cell in cells]
    return {name if len(name) <= LONGEST else name[: name.rindex("-", 0, LONGEST)] for name in made}


def links() -> Iterator[str]:
    """Yield the anchors in calls of `see`."""
    for path in PACKAGE.rglob("*.py"):
        for node in nodes(path):
            match node:
                case ast.Call(func=ast.Name(id="see"), args=[ast.Constant(value=str(anchor))]):
                    yield anchor
                case _:
                    pass


def test_each_link_of_a_message_leads_to_a_row() -> None:
    """A message links to its row of the error index, and the row exists."""
    reasons = [str(reason).replace("_", "-") for kind in (Reason, ParkReason, Skip) for reason in kind]
    found = list(links())
    assert len(found) > 3
    assert {*found, *reasons} - {"ok"} <= anchors()
    assert ERROR_INDEX == "docs/errors.md"


@pytest.mark.parametrize(
    "reason",
    [reason for kind in (Reason, ParkReason, Skip) for reason in kind],
    ids=lambda each: f"{each!r}",
)
def test_every_reason_has_a_row(reason: StrEnum) -> None:
    """For each reason in `status().skipped`, the index has the cause and the fix."""
    assert f"| `{reason}` |" in INDEX or f"`{reason}` is the reason" in INDEX


def test_every_text_has_a_row() -> None:
    """Each log line and each error at the start is in the index."""
    told = {text for text in texts(anywhere=False) if telling(text) and not re.match("… [A-Z]", text)} - INTERNAL
    assert len(told) > 150
    assert sorted(text for text in told if telling(text) not in INDEX) == []  # docs/errors.md: add a row for each


def rows() -> Iterator[str]:
    """Yield the texts of the index."""
    for row in re.findall(r"^\| `(.*?)` \|", (PACKAGE.parent / "docs/errors.md").read_text(), re.MULTILINE):
        if " " in telling(row):
            yield row


def test_no_row_is_obsolete() -> None:
    """The index has no text that the code no longer has."""
    known, everything = set(rows()), set(texts(anywhere=True))
    assert len(known) > 150
    assert sorted(row for row in known if not any(telling(row) in text for text in everything)) == []
