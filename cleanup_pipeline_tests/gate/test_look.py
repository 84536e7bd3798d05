"""Looking at the world once, where a part of it can't be looked at."""

from datetime import UTC, datetime

import pytest
from dagster import DagsterInstance

from cleanup_pipeline.gate import look

NOW = datetime(2026, 11, 24, 5, tzinfo=UTC)


def test_where_dagsters_storage_can_not_be_read_redis_is_not_asked_and_not_called_unreachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("the storage is down")

    monkeypatch.setattr(look, "day_runs", fail)
    with DagsterInstance.ephemeral() as instance:
        decision = look.look(instance, NOW, {"MESSAGE_CLEANUP_REDIS_URL": "redis://127.0.0.1:1"})

    assert not decision.launch
    assert {signal.source: signal.state for signal in decision.signals} == {
        "bullmq": "unknown",
        "dagster_run": "unreachable",
        "materialization": "unreachable",
    }
