"""Static files of the pages: those of this repository, and two libraries served from their installed packages.

No third-party file is copied into this repository, and none is fetched from another host.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from services.arm_profiles import by_number

STATIC = Path(__file__).parent / "static"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
VENDOR = {
    "plotly.min.js": ("plotly", "package_data/plotly.min.js"),
    "swagger-ui-bundle.js": ("fastapi_offline", "static/swagger-ui-bundle.js"),
    "swagger-ui.css": ("fastapi_offline", "static/swagger-ui.css"),
}
"""Name in a URL -> package of the extra `pages`, and path in it."""
ARM_STYLES = "arms.css"
"""Name of the generated style sheet with the arms' colours."""
COMPRESSION_LEVEL = 6


@dataclass(frozen=True, slots=True)
class Asset:
    """A static file, plain and compressed."""

    media_type: str
    body: bytes
    zipped: bytes
    etag: str


@lru_cache(maxsize=64)
def own(name: str) -> Asset | None:
    """A file of this package; None when there is none of that name."""
    if name == ARM_STYLES:
        return _asset(MEDIA_TYPES[".css"], arm_styles().encode())
    path = STATIC / name
    return _read(path) if path.parent == STATIC and path.suffix in MEDIA_TYPES and path.is_file() else None


@lru_cache(maxsize=len(VENDOR))
def vendor(name: str) -> Asset | None:
    """A library's file; None when its package is not installed. The first call compresses it, which takes a moment."""
    path = _vendor_path(name)
    return _read(path) if path is not None else None


def arm_styles() -> str:
    """The style sheet of the arms' colours: a variable and a class for each."""
    colours = [f"  --{arm.name}: light-dark({', '.join(arm.colours)});" for arm in by_number()]
    classes = [f".of-{arm.name} {{ --arm: var(--{arm.name}); }}" for arm in by_number()]
    return "\n".join((":root {", *colours, "}", *classes, ""))


def has_vendor(name: str) -> bool:
    """Whether the library's package is installed."""
    return _vendor_path(name) is not None


def _vendor_path(name: str) -> Path | None:
    package, inside = VENDOR.get(name, ("", ""))
    spec = find_spec(package) if package else None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / inside
    return path if path.is_file() else None


def _read(path: Path) -> Asset:
    return _asset(MEDIA_TYPES[path.suffix], path.read_bytes())


def _asset(media_type: str, body: bytes) -> Asset:
    etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    return Asset(media_type, body, gzip.compress(body, COMPRESSION_LEVEL, mtime=0), etag)
