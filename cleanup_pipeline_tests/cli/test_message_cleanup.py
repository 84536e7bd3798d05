"""What the commands say about message cleanup in BullMQ, and reporting it by hand."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from shlex import split

import pytest
import redis

from cleanup_pipeline.gate import day
from cleanup_pipeline_tests.bullmq import BullMQ, url_of
from cleanup_pipeline_tests.cli.conftest import Ended

Cli = Callable[..., Ended]
Clock = Callable[[datetime], None]

TODAY = day.utc_day(day.utc_now())
EVENING = day.at(TODAY, datetime.max.time().replace(microsecond=0))


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    def set_clock(now: datetime) -> None:
        monkeypatch.setattr(day, "utc_now", lambda: now)

    set_clock(EVENING)
    return set_clock


# Both versions of BullMQ are brought into each state in gate/test_bullmq.py.
@pytest.mark.parametrize("bull", ["bullmq-5"], indirect=True)
def test_status_tells_the_truth_in_one_sentence_in_every_state(
    bull: BullMQ, redis_db: redis.Redis, cli: Cli, dagster_home: Path, set_clock: Clock
) -> None:
    variables = {"DAGSTER_HOME": str(dagster_home), "MESSAGE_CLEANUP_REDIS_URL": url_of(redis_db)}

    def told(**more: str) -> tuple[str, str, str]:
        status = cli("status", "--json", **variables | more)
        assert status.code == 0
        gate = status.json["gate"]
        [signal] = [signal for signal in gate["signals"] if signal["source"] == "bullmq"]
        return signal["state"], gate["state"], gate["reason"]

    assert told() == ("unknown", "held", f"No trace of message cleanup for {TODAY}; late since 06:00:00 UTC.")

    due = bull.do("const job = await schedule(); return job.timestamp + job.delay")
    due_day = datetime.fromtimestamp(due / 1000, tz=EVENING.tzinfo).date()
    set_clock(day.at(due_day, datetime.min.time()))
    said = "Message cleanup is due at 03:00:00 UTC and has not started (BullMQ); today's run is due at 04:00:00 UTC."
    assert told() == ("waiting", "waiting", said)
    set_clock(EVENING)

    bull.do("await (await queue.getDelayed())[0].promote()")
    assert told()[:2] == ("waiting", "held")

    bull.do("await work(forever, 'active')")
    state, _, reason = told()
    assert state == "running"
    assert reason.startswith("Message cleanup has been running since ")
    bull.do("await reset()")
    redis_db.flushall()

    bull.do("await (await schedule({ attempts: 2, backoff: 3600000 })).promote()")
    bull.do("await work(async () => { throw new Error('deadlock\\nat 7') }, 'failed')")
    state, _, reason = told()
    assert state == "retrying"
    assert reason.startswith("Message cleanup failed and will be tried again at ")
    assert "(BullMQ): deadlock;" in reason

    bull.do("await (await queue.getDelayed())[0].promote()")
    bull.do("while (!(await queue.getFailedCount())) {}")
    state, _, reason = told()
    assert state == "failed"
    assert reason.startswith("Message cleanup failed at ")
    assert "(BullMQ): deadlock;" in reason

    bull.do("await reset()")
    bull.do("await (await queue.getFailed())[0].retry(); await work(async () => {}, 'completed')")
    state, gate, reason = told()
    assert (state, gate) == ("succeeded", "open")
    assert reason.startswith("Message cleanup succeeded at ")

    set_clock(EVENING + timedelta(days=1))
    bull.do("await reset()")
    bull.do("await queue.removeJobScheduler('daily-cleanup')")
    state, _, reason = told()
    assert state == "unknown"
    assert f"; the last success is the one for {TODAY}, at " in reason

    state, _, reason = told(MESSAGE_CLEANUP_REDIS_URL="unix:///no/such/socket")
    assert state == "unreachable"
    assert "BullMQ can't be reached: /no/such/socket: No such file or directory" in reason

    state, _, reason = told(MESSAGE_CLEANUP_REDIS_URL="redis://:sec/ret@cache")
    assert state == "unreachable"
    assert "MESSAGE_CLEANUP_REDIS_URL can't be understood" in reason
    assert "sec/ret" not in reason


# Reporting by hand.


@pytest.mark.usefixtures("set_clock")
def test_a_report_by_hand_is_recorded_and_opens_the_gate(cli: Cli, dagster_home: Path) -> None:
    variables = {"DAGSTER_HOME": str(dagster_home)}
    at = day.at(TODAY, datetime.min.time().replace(hour=3, minute=5))

    done = cli("report-message-cleanup", "--at", at.isoformat(), **variables)

    assert (done.code, done.err) == (0, "")
    assert done.out == (
        f"Recorded: message cleanup succeeded at 03:05:00 UTC, for {TODAY}. "
        "Gate: open. Message cleanup succeeded at 03:05:00 UTC (reported to Dagster).\n"
    )
    assert cli("status", "--json", **variables).json["gate"]["state"] == "open"

    again = cli("report-message-cleanup", "--json", **variables)
    assert (again.json["finished_at"], again.json["day"]) == (EVENING.isoformat(), str(TODAY))
    assert again.json["gate"]["state"] == "open"


@pytest.mark.usefixtures("set_clock")
def test_a_report_for_yesterday_opens_nothing_today(cli: Cli, dagster_home: Path) -> None:
    at = EVENING - timedelta(days=1)

    done = cli("report-message-cleanup", "--at", at.isoformat(), "--json", DAGSTER_HOME=str(dagster_home))

    assert done.json["day"] == str(TODAY - timedelta(days=1))
    assert done.json["gate"]["state"] == "held"


@pytest.mark.parametrize(
    ("arguments", "home", "word"),
    [
        (["--at", "2100-01-01T00:00:00Z"], True, "future"),
        (["--at", "2026-11-24T03:05:00"], True, "zone"),
        (["--at", "now"], True, "ISO 8601"),
        ([], False, "DAGSTER_HOME is not set"),
    ],
)
def test_a_report_that_can_not_be_made_is_2(
    cli: Cli, dagster_home: Path, arguments: list[str], home: bool, word: str
) -> None:
    done = cli("report-message-cleanup", *arguments, DAGSTER_HOME=str(dagster_home) if home else None)

    assert (done.code, done.out) == (2, "")
    assert word in done.err


# The old job.


def test_doctor_tells_where_the_old_job_lives_on_and_its_words_remove_it(
    bull: BullMQ, redis_db: redis.Redis, cli: Cli
) -> None:
    url = {"MESSAGE_CLEANUP_REDIS_URL": url_of(redis_db)}
    assert cli("doctor", "--json", **url).json["elsewhere"] == []
    plan = "const old = queueOf('after-hours-session-cleanup');"
    bull.do(plan + "await old.upsertJobScheduler('daily-session-cleanup', { pattern: '0 4 * * *' }, { name: 'clean' })")

    doctor = cli("doctor", "--json", **url)

    assert doctor.code == 0
    [finding] = doctor.json["elsewhere"]
    assert finding["severity"] == "warning"
    assert "scheduler daily-session-cleanup of queue after-hours-session-cleanup" in finding["what"]
    assert finding["what"] in cli("doctor", **url).out
    by_node, *by_redis = finding["do"].removeprefix("Remove it with BullMQ: ").split("; ")
    for command in by_redis:
        redis_db.execute_command(*split(command.removeprefix("or: ").removeprefix("redis-cli ")))
    left = {str(name).rpartition(":")[2] for name in redis_db.keys("bull:after-hours-session-cleanup:*")}
    assert left <= {"meta'", "events'", "marker'", "id'"}

    bull.do(plan + "await old.upsertJobScheduler('daily-session-cleanup', { pattern: '0 4 * * *' }, { name: 'clean' })")
    bull.do("const Queue = function () { return queueOf('after-hours-session-cleanup') }, connection = 0;" + by_node)
    assert cli("doctor", "--json", **url).json["elsewhere"] == []


OLD = "bull:after-hours-session-cleanup:"


def test_doctor_tells_of_an_old_job_that_nothing_plans_any_more_and_its_words_remove_it(
    bull: BullMQ, redis_db: redis.Redis, cli: Cli
) -> None:
    url = {"MESSAGE_CLEANUP_REDIS_URL": url_of(redis_db)}
    hour = "{ delay: 3600000, jobId: `it's; rm -rf $HOME` }"
    bull.do(f"await queueOf('after-hours-session-cleanup').add('clean', {{}}, {hour})")

    [finding] = cli("doctor", "--json", **url).json["elsewhere"]

    assert "job it's; rm -rf $HOME of queue after-hours-session-cleanup, next at 20" in finding["what"]
    _, _, by_redis = finding["do"].partition("; or: ")
    words = split(by_redis)
    assert words == [
        "redis-cli",
        "ZREM",
        f"{OLD}delayed",
        "it's; rm -rf $HOME;",
        "redis-cli",
        "DEL",
        f"{OLD}it's; rm -rf $HOME",
    ]
    by_node = finding["do"].removeprefix("Remove it with BullMQ: ").partition("; or: ")[0]
    bull.do("const Queue = function () { return queueOf('after-hours-session-cleanup') }, connection = 0;" + by_node)
    assert cli("doctor", "--json", **url).json["elsewhere"] == []


def test_doctor_tells_no_time_of_a_scheduler_whose_score_is_none(redis_db: redis.Redis, cli: Cli) -> None:
    redis_db.zadd(f"{OLD}repeat", {"clean::::0 4 * * *": 5, "daily-session-cleanup": 7})

    findings = cli("doctor", "--json", MESSAGE_CLEANUP_REDIS_URL=url_of(redis_db)).json["elsewhere"]

    assert len(findings) == 2
    assert all(finding["what"].endswith("of queue after-hours-session-cleanup.") for finding in findings)


def test_doctor_tells_where_redis_can_not_be_reached(cli: Cli) -> None:
    doctor = cli("doctor", "--json", MESSAGE_CLEANUP_REDIS_URL="unix:///no/such/socket")

    assert doctor.code == 0
    [finding] = doctor.json["elsewhere"]
    assert "can't be told: /no/such/socket: No such file" in finding["what"]
