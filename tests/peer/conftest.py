import os

import pytest

from tests.lab.base import Broker
from tests.lab.errors import BrokerUnavailableError
from tests.peer.program import Peer, build


@pytest.fixture
def peer(kafka39: Broker) -> Peer:
    """The service in Go; where it cannot be had the test is skipped, with CI=true it fails."""
    try:
        return Peer(build(), kafka39.address)
    except BrokerUnavailableError as error:
        reason = f"the peer in Go is not available: {error}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
