"""A code that a phone's camera reads as an address (ISO/IEC 18004)."""

from __future__ import annotations

import io

import segno


def code_of(text: str) -> bytes:
    """An SVG picture, black on white with the quiet zone that readers want; it fills whatever box it is shown in."""
    svg = io.BytesIO()
    segno.make_qr(text, error="m").save(svg, kind="svg", border=4, light="#fff", omitsize=True)
    return svg.getvalue()
