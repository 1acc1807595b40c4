"""The page's files, as they lie beside this module: no build step, nothing from elsewhere."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Final

_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


@dataclass(frozen=True, slots=True)
class Page:
    """One file."""

    content: bytes
    media_type: str


PAGES: Final = {
    path: Page((files("butter_middleware.sandbox") / "static" / name).read_bytes(), media_type)
    for path, (name, media_type) in _FILES.items()
}
"""By path."""
