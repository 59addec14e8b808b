"""The ports that servers have unless they are told another one."""

from __future__ import annotations

PAGE_PORT = 8790
"""TCP, of the pages."""
OSC_PORT = 9000
"""UDP, of OSC."""
