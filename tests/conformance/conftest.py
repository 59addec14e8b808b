"""The peers of every language, built once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance import peers


@pytest.fixture(scope="package")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, peers.Peer]]:
    found = peers.available(tmp_path_factory.mktemp("peers"))
    yield found
    peers.end_wine(found)
