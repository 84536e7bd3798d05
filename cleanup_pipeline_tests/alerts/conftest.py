from collections.abc import Iterator

import pytest

from cleanup_pipeline_tests.alerts.receiver import Webhook, webhook


@pytest.fixture
def hook() -> Iterator[Webhook]:
    """A webhook that answers 200, until it is told otherwise."""
    with webhook() as opened:
        yield opened
