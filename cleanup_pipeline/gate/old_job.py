"""The BullMQ job that this pipeline replaces: whether Redis still plans it, every night, beside ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cleanup_pipeline.gate.bullmq import URL_VARIABLE
from cleanup_pipeline.gate.queue import instant, key_prefix
from cleanup_pipeline.gate.redis_client import Transact, ask

QUEUE = "after-hours-session-cleanup"
SCHEDULER = "daily-session-cleanup"

_MOST = 10


@dataclass(frozen=True, slots=True)
class OldScheduler:
    """A scheduler in the old job's queue. `keys` is what the queue's keys begin with; `due` when a job is due next."""

    name: str
    keys: str
    due: datetime | None

    @property
    def how_to_remove(self) -> str:
        """What to type, in Node.js or by redis-cli."""
        method = "removeJobScheduler" if self.name == SCHEDULER else "removeRepeatableByKey"
        node = f"await new Queue('{QUEUE}', {{ connection }}).{method}('{self.name}')"
        if self.name != SCHEDULER or self.due is None:
            return f"Remove it with BullMQ: {node}"
        job = f"repeat:{self.name}:{int(self.due.timestamp() * 1000)}"
        return (
            f"Remove it with BullMQ: {node}; or: redis-cli ZREM '{self.keys}repeat' {self.name}; "
            f"redis-cli ZREM '{self.keys}delayed' {job}; "
            f"redis-cli DEL '{self.keys}repeat:{self.name}' '{self.keys}{job}'"
        )


def old_schedulers(url: str, prefix: str | None) -> Sequence[OldScheduler]:
    """Return what still plans the old job. Raises `RedisUnavailable`."""

    def questions(transact: Transact, *, clustered: bool) -> list[OldScheduler]:
        keys = key_prefix(prefix, QUEUE, clustered=clustered)
        (flat,) = transact([("ZRANGE", keys + b"repeat", 0, _MOST - 1, "WITHSCORES")])
        return [
            OldScheduler(name.decode("utf-8", "replace"), keys.decode(), instant(float(score)))
            for name, score in zip(flat[::2], flat[1::2], strict=True)
        ]

    return ask(url, questions, URL_VARIABLE)
