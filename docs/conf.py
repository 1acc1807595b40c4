"""The configuration of the documentation. Nothing is fetched: no inventories, fonts or external scripts."""

import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version as installed
from pathlib import Path
from typing import Final

from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "butter-middleware"
author = "the butter-middleware maintainers"
release = version = installed(project)

extensions = [
    "diagrams",
    "phone_tables",
    "row_anchors",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
nitpicky = True
# References to public names must be found. Other projects have no inventory here, and private modules have no page.
nitpick_ignore_regex = [(r"py:.*", r"(?!butter_middleware(\.(client_ip|extract|outbox|testing))?\.\w+$).*")]

myst_enable_extensions = ["attrs_inline", "colon_fence"]
myst_heading_anchors = 4
copybutton_exclude = ".linenos, .gp, .go"
"""A copy from a console has only the commands, without prompt and output."""

default_role = "py:obj"
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "exclude-members": "model_config, allow_private, admitting_private",
}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "butter-middleware"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"

PUBLIC: Final = ("", ".client_ip", ".extract", ".outbox", ".testing")


def _aliases() -> Iterator[tuple[str, str]]:
    """Yield where each public name is defined, and where users import it from."""
    for suffix in reversed(PUBLIC):
        module = import_module(f"butter_middleware{suffix}")
        for name in module.__all__:
            thing = getattr(module, name)
            if hasattr(thing, "__qualname__"):
                yield f"{thing.__module__}.{thing.__qualname__}", f"{module.__name__}.{name}"


ALIASES: Final = dict(_aliases())


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element) -> Element | None:
    """Link a name that an annotation gives with its defining module."""
    public = ALIASES.get(node["reftarget"])
    if public is None:
        return None
    return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, content)


def _begin(_app: Sphinx, what: str, _name: str, _thing: object, _options: object, lines: list[str]) -> None:
    """Add an empty comment, so that napoleon does not take the words before an attribute's first colon for its type."""
    if what in {"attribute", "property"}:
        lines[:0] = ["..", ""]


def setup(app: Sphinx) -> None:
    """Connect the functions of this module."""
    app.connect("missing-reference", _resolve)
    app.connect("autodoc-process-docstring", _begin, priority=400)  # before napoleon's 500
