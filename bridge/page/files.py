"""The pages' own files, and the headers that they are served with."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from bridge.page.errors import GatewayError

WEB = Path(__file__).resolve().parents[2] / "clients" / "web"
_POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self'{styles}; "
    "img-src 'self' data: blob:; media-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY = {
    "Content-Security-Policy": _POLICY.format(scripts="", styles=""),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
NOT_KEPT = {"Cache-Control": "no-store"}
FOLDERS_WITH_PAGES = ("out", "scene")
"""Those with an index.html: their names are asked for without a slash at the end, too."""
_STYLED_BY_OTHERS = ("out",)
"""OBS puts a browser source's own style inside the page: a transparent ground, unless its user writes another."""
_FOLDERS = ("", "examples", "page", *FOLDERS_WITH_PAGES, "vendor")
_NEEDED = ("index.html", "app.js", "style.css")


def page_files() -> dict[str, tuple[Path, dict[str, str]]]:
    """What is served as it is: request path, file and headers. Nothing else can be asked for.

    Raises `GatewayError` when the page is not there.
    """
    found: dict[str, tuple[Path, dict[str, str]]] = {}
    for folder in _FOLDERS:
        for path in sorted((WEB / folder).glob("*")):
            if path.suffix not in (".html", ".js", ".css"):
                continue
            headers = dict(SECURITY)
            if path.suffix == ".html":
                scripts = _import_map(path.read_text(encoding="utf-8"))
                styles = " 'unsafe-inline'" if folder in _STYLED_BY_OTHERS else ""
                headers["Content-Security-Policy"] = _POLICY.format(scripts=scripts, styles=styles)
            name = path.relative_to(WEB).as_posix()
            found[f"/{name}"] = (path, headers)
            if path.name == "index.html":
                found["/" + name.removesuffix("index.html")] = (path, headers)
    missing = [name for name in _NEEDED if f"/{name}" not in found]
    if missing:
        raise GatewayError(f"clients/web lacks {', '.join(missing)}; restore it from the repository")
    return found


def _import_map(html: str) -> str:
    """The content policy's leave for the page's import map, the one script that browsers want inside the page."""
    found = re.search('<script type="importmap">(.*?)</script>', html, re.DOTALL)
    if found is None:
        return ""
    return f" 'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"
