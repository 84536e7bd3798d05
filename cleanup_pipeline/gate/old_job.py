"""The BullMQ job that this pipeline replaces: whether Redis still plans it, every night, beside ours."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from shlex import quote
from typing import Literal

from cleanup_pipeline.gate.bullmq import URL_VARIABLE
from cleanup_pipeline.gate.queue import due, instant, key_prefix
from cleanup_pipeline.gate.redis_client import Transact, ask

QUEUE = "after-hours-session-cleanup"
SCHEDULER = "daily-session-cleanup"

_MOST = 10


# As milliseconds this is 1973: what is less is no instant that anything was planned for.
_LEAST_INSTANT = 1e11


@dataclass(frozen=True, slots=True)
class OldJob:
    """What plans the old job, or one that is planned and belongs to nothing that does.

    `keys` is what the queue's keys begin with; `due` when it is due next, where that can be told.
    """

    kind: Literal["scheduler", "job"]
    name: str
    keys: str
    due: datetime | None

    @property
    def how_to_remove(self) -> str:
        """What to type, in Node.js or by redis-cli."""
        ways = [f"await new Queue('{QUEUE}', {{ connection }}).{self._method}({json.dumps(self.name)})"]
        # A command that can't be shown as it is typed is none.
        if self.name.isprintable():
            ways += [f"redis-cli {' '.join(map(quote, command))}" for command in self._commands()]
        return f"Remove it with BullMQ: {'; or: '.join([ways[0], '; '.join(ways[1:])] if ways[1:] else ways)}"

    @property
    def _method(self) -> str:
        if self.kind == "job":
            return "remove"
        return "removeJobScheduler" if self.name == SCHEDULER else "removeRepeatableByKey"

    def _commands(self) -> Sequence[Sequence[str]]:
        """What redis-cli is to do; nothing where only BullMQ knows its keys."""
        if self.kind == "job":
            return [("ZREM", f"{self.keys}delayed", self.name), ("DEL", f"{self.keys}{self.name}")]
        if self.name != SCHEDULER or self.due is None:
            return []
        job = f"repeat:{self.name}:{round(self.due.timestamp() * 1000)}"
        return [
            ("ZREM", f"{self.keys}repeat", self.name),
            ("ZREM", f"{self.keys}delayed", job),
            ("DEL", f"{self.keys}repeat:{self.name}", f"{self.keys}{job}"),
        ]


def old_jobs(url: str, prefix: str | None) -> Sequence[OldJob]:
    """Return what still plans the old job, and what is planned without that. Raises `RedisUnavailableError`."""

    def questions(transact: Transact, *, clustered: bool) -> list[OldJob]:
        keys = key_prefix(prefix, QUEUE, clustered=clustered)
        repeat, delayed = transact(
            [("ZRANGE", keys + place, 0, _MOST - 1, "WITHSCORES") for place in (b"repeat", b"delayed")]
        )
        schedulers = [OldJob("scheduler", name, keys.decode(), _next(score)) for name, score in _scored(repeat)]
        planned = tuple(f"repeat:{scheduler.name}:" for scheduler in schedulers)
        alone = [(name, score) for name, score in _scored(delayed) if not name.startswith(planned)]
        return [*schedulers, *(OldJob("job", name, keys.decode(), due(score)) for name, score in alone)]

    return ask(url, questions, URL_VARIABLE)


def _scored(flat: Sequence[bytes]) -> list[tuple[str, float]]:
    names = (name.decode("utf-8", "replace") for name in flat[::2])
    return list(zip(names, map(float, flat[1::2]), strict=True))


def _next(score: float) -> datetime | None:
    return instant(score) if score >= _LEAST_INSTANT else None
