"""What can keep the page's server from starting."""

from __future__ import annotations


class GatewayError(RuntimeError):
    """The gateway cannot start. The message says how to fix it."""


class GatewayPortInUse(GatewayError):
    """Another program holds the TCP port."""


class RecordingRefused(RuntimeError):
    """A recording could not be begun. The message says what to do."""
