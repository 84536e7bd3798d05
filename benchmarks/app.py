"""An app at work on the swept tables, at a fixed rate, as a process of its own: `python -m benchmarks.app URL SECONDS`.

Sessions are started, extended and ended, declines upserted; one in fifty transactions is about a row that is due. How
long a transaction took is counted from when it was due to begin: what waits behind a slow one counts as slow, too.
Prints two numbers a transaction, when it was due and how long it took, in seconds by the monotonic clock of the
machine, and ends by itself.
"""

import random
import sys
import threading
import time
from queue import SimpleQueue

import psycopg
from psycopg import Connection

RATE = 200  # a second
_CLIENTS = 8
_PLANTED = 100_000  # of the planted rows, so many are worked on

App = Connection[tuple[object, ...]]

_START = """
    insert into after_hours_sessions
        (user_id, expires_at, latitude, longitude, fuzzed_latitude, fuzzed_longitude)
    values ('user-' || md5('user ' || %(i)s), now() + interval '4 hours', 1, 1, 1, 1)
    on conflict (user_id) where ended_at is null do update set expires_at = excluded.expires_at
"""
_EXTEND = """
    update after_hours_sessions set expires_at = expires_at + interval '1 hour'
    where user_id = 'user-' || md5('user ' || %(i)s) and ended_at is null and expires_at > now()
"""
_END = """
    update after_hours_sessions set ended_at = now()
    where user_id = 'user-' || md5('user ' || %(i)s) and ended_at is null and expires_at > now()
"""
_DECLINE = """
    insert into after_hours_declines (session_id, user_id, declined_user_id)
    values (md5('session ' || %(i)s)::uuid, 'user-' || md5('user ' || %(i)s), 'user-' || md5('user ' || %(j)s))
    on conflict (user_id, declined_user_id) do update set decline_count = after_hours_declines.decline_count + 1
"""
# Odd rows are planted as due.
_EXTEND_A_DUE_ONE = """
    update after_hours_sessions set expires_at = expires_at + interval '1 second'
    where id = md5('session ' || %(odd)s)::uuid and ended_at is null
"""
_REPEAT_A_DUE_ONE = """
    update after_hours_declines set decline_count = decline_count + 1 where id = md5('decline ' || %(odd)s)::uuid
"""
_USUAL = tuple(statement.encode() for statement in (_START, _EXTEND, _END, _DECLINE))
_DUE = tuple(statement.encode() for statement in (_EXTEND_A_DUE_ONE, _REPEAT_A_DUE_ONE))


def main(url: str, seconds: float) -> list[tuple[float, float]]:
    """Work for so many seconds; returns when each transaction was due, and how long it took."""
    begins: SimpleQueue[float | None] = SimpleQueue()
    took: SimpleQueue[tuple[float, float]] = SimpleQueue()
    clients = [threading.Thread(target=_work, args=(url, begins, took)) for _ in range(_CLIENTS)]
    for client in clients:
        client.start()
    began = time.monotonic()
    for number in range(int(RATE * seconds)):
        due = began + number / RATE
        time.sleep(max(0.0, due - time.monotonic()))
        begins.put(due)
    for _ in clients:
        begins.put(None)
    for client in clients:
        client.join()
    if took.qsize() < int(RATE * seconds):
        raise RuntimeError("A transaction of the app's failed: see above.")
    return [took.get() for _ in range(took.qsize())]


def _work(url: str, begins: "SimpleQueue[float | None]", took: "SimpleQueue[tuple[float, float]]") -> None:
    chance = random.Random()  # noqa: S311 -- a load, no secret
    with psycopg.connect(url, autocommit=True) as app:
        while (due := begins.get()) is not None:
            statement = chance.choice(_DUE if chance.random() < 0.02 else _USUAL)
            i, j = chance.randrange(_PLANTED) + 1, chance.randrange(_PLANTED) + 1
            app.execute(statement, {"i": str(i), "j": str(j), "odd": str(i | 1)})
            took.put((due, time.monotonic() - due))


if __name__ == "__main__":
    for due, took in main(sys.argv[1], float(sys.argv[2])):
        print(due, took)
