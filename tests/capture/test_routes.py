"""Templates match as Starlette's do, and an overlap is found before a request falls into it."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Match, Route

from butter_middleware import CheckoutRoute
from butter_middleware.capture.routes import RouteTable
from butter_middleware.capture.templates import Template


@pytest.mark.parametrize(
    ("template", "path", "params"),
    [
        ("/checkout", "/checkout", {}),
        ("/checkout/{cart}", "/checkout/a-b", {"cart": "a-b"}),
        ("/checkout/{cart:int}/pay", "/checkout/12/pay", {"cart": 12}),
        ("/a/{x:float}", "/a/1.5", {"x": 1.5}),
        (
            "/a/{x:uuid}",
            "/a/12345678-1234-5678-1234-567812345678",
            {"x": UUID("12345678-1234-5678-1234-567812345678")},
        ),
        ("/a/{rest:path}", "/a/b/c", {"rest": "b/c"}),
        ("/a.{kind}.html", "/a.x.html", {"kind": "x"}),
    ],
)
def test_parameters_are_converted(template: str, path: str, params: dict[str, object]) -> None:
    """Each converter of Starlette gives its type."""
    assert Template(template).params(path) == params


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("/a", "/a", True),
        ("/a", "/a/", False),
        ("/a/{x}", "/a/b", True),
        ("/a/{x}", "/a/{y}/b", False),
        ("/a/{x:int}", "/a/new", False),
        ("/a/{x:int}", "/a/{y}", True),
        ("/a/{x:int}", "/a/{y:uuid}", True),
        ("/a/{x:path}", "/a/", True),
        ("/a/{x:path}", "/b/{y:path}", False),
        ("/{x:path}", "/checkout/{y}", True),
        ("/{x}.json", "/{y}.html", False),
        ("/{x}-{y}", "/{z:int}", False),
        ("/{x}/b", "/a/{y}", True),
        ("/café/{x}", "/café/é", True),
    ],
)
def test_overlaps_are_found(one: str, other: str, overlap: bool) -> None:  # noqa: FBT001 - parametrized
    """Two templates overlap where one path could match both, and the question is symmetrical."""
    assert Template(one).overlaps(Template(other)) is overlap
    assert Template(other).overlaps(Template(one)) is overlap


segments = st.sampled_from(["a", "b1", "12", "{x}", "{x:int}", "{x:float}", "{x:path}", "{x}.html", "a-{x:int}"])
templates = st.lists(segments, min_size=1, max_size=3).map(
    lambda parts: "/" + "/".join(part.replace("x", f"x{number}") for number, part in enumerate(parts))
)
paths = st.lists(st.sampled_from(["a", "b1", "12", "1.5", "zz", "", "q.html", "a-7"]), min_size=1, max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)


@given(templates, templates, paths)
def test_no_path_matches_two_templates_that_do_not_overlap(one: str, other: str, path: str) -> None:
    """Whatever the templates, a path that matches both is an overlap; and each matches as Starlette's own route."""
    first, second = Template(one), Template(other)
    if first.match(path) and second.match(path):
        assert first.overlaps(second)
    scope = {"type": "http", "method": "POST", "path": path}
    theirs = Route(one, lambda _request: None, methods=["POST"]).matches(scope)[0]
    assert bool(first.match(path)) is (theirs is Match.FULL)


def test_a_table_finds_by_method_and_path() -> None:
    """Literal and parametrized routes are found, for their own methods only."""
    literal = CheckoutRoute("/pay", psp="adyen", methods=["post", "PUT"])
    template = CheckoutRoute("/pay/{x}", psp="adyen")
    table = RouteTable([literal, template])
    assert table.find("PUT", "/pay") is literal
    assert table.find("POST", "/pay/1") is template
    assert table.find("PUT", "/pay/1") is None
    assert table.find("POST", "/pay/1/2") is None
