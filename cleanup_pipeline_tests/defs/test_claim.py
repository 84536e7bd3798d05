"""The claim of a day: of runs that start at one instant, one works."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from dagster import DagsterInstance, job, op
from psycopg import Connection

from cleanup_pipeline.defs.claim import SupersededError, claim_day, lock_name
from cleanup_pipeline.gate import day, tags
from cleanup_pipeline.gate.dagster_facts import day_runs
from cleanup_pipeline_tests.gate.storage import TODAY, add_day_run, add_run, end, today

RUNS = 4
ROUNDS = 12


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the gate and for Dagster, which stamps the runs that are made."""
    monkeypatch.setattr(day, "utc_now", lambda: today("12:00"))
    monkeypatch.setattr("dagster._time._mockable_get_current_datetime", lambda: today("12:00"))


class Lock:
    """A session-level advisory lock, as a run holds one in the cleaned database."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def try_lock(self, name: str) -> bool:
        row = self.connection.execute("select pg_try_advisory_lock(hashtextextended(%s, 0))", [name]).fetchone()
        return row is not None and bool(row[0])


@contextmanager
def session(url: str) -> Iterator[Lock]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield Lock(connection)


def tags_of(instance: DagsterInstance, run_id: str) -> dict[str, str]:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return dict(run.tags)


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_of_runs_that_claim_at_one_instant_one_works(
    round_: int, dagster_home: Path, instance: DagsterInstance, bare_database: str
) -> None:
    run_ids = [add_day_run(instance, {"start": "11:59"}) for _ in range(RUNS)]
    begin, all_have_tried = threading.Barrier(RUNS), threading.Barrier(RUNS)

    def start(run_id: str) -> str | SupersededError:
        own = DagsterInstance.from_config(str(dagster_home))
        try:
            with session(bare_database) as lock:
                begin.wait(timeout=60)
                try:
                    claim_day(own, run_id, TODAY, lock.try_lock)
                except SupersededError as superseded:
                    return superseded
                finally:
                    if round_ % 2:  # in every other round the winner still works when the last one tries
                        all_have_tried.wait(timeout=60)
                end(own, run_id, "success", "success", "12:00")
                return run_id
        finally:
            own.dispose()

    with ThreadPoolExecutor(RUNS) as threads:
        results = list(threads.map(start, run_ids))

    winners = [result for result in results if isinstance(result, str)]
    assert len(winners) == 1
    claims = {run_id: tags_of(instance, run_id).get(tags.CLAIM) for run_id in run_ids}
    assert claims == {run_id: run_id if run_id == winners[0] else None for run_id in run_ids}


def test_the_winner_is_told(instance: DagsterInstance, bare_database: str) -> None:
    winner, loser = add_day_run(instance, {"start": "11:58"}), add_day_run(instance, {"start": "11:59"})

    with session(bare_database) as winners, session(bare_database) as losers:
        claim_day(instance, winner, TODAY, winners.try_lock)
        with pytest.raises(SupersededError) as caught:
            claim_day(instance, loser, TODAY, losers.try_lock)

    assert (caught.value.day, caught.value.winner_run_id) == (TODAY, winner)
    assert str(caught.value) == f"The run of {TODAY} is superseded: another run holds the day's lock."


def test_a_lock_without_a_run_that_claimed_supersedes_too(instance: DagsterInstance, bare_database: str) -> None:
    run_id = add_day_run(instance, {"start": "11:59"})

    with session(bare_database) as somebody, session(bare_database) as ours:
        somebody.try_lock(lock_name(TODAY))
        with pytest.raises(SupersededError) as caught:
            claim_day(instance, run_id, TODAY, ours.try_lock)

    assert caught.value.winner_run_id is None
    assert tags.CLAIM not in tags_of(instance, run_id)


def test_a_good_run_supersedes_those_that_come_after_it(instance: DagsterInstance) -> None:
    good = add_day_run(instance, {"start": "04:00"}, claimed=True)
    end(instance, good, "success", "success", "04:02")
    late = add_day_run(instance, {"start": "11:59"})

    with pytest.raises(SupersededError, match="has done the day's work"):
        claim_day(instance, late, TODAY, _free)


def test_a_run_that_claimed_and_is_still_on_supersedes_though_its_lock_is_lost(instance: DagsterInstance) -> None:
    working = add_day_run(instance, {"start": "11:50"}, claimed=True)
    late = add_day_run(instance, {"start": "11:59"})

    with pytest.raises(SupersededError, match="claimed the day and has not ended") as caught:
        claim_day(instance, late, TODAY, _free)

    assert caught.value.winner_run_id == working


@pytest.mark.parametrize(
    ("outcome", "event"),
    [("failed", "failure"), ("refused", "failure"), ("skipped", "failure"), ("interrupted", "cancel")],
)
def test_a_run_that_was_no_good_leaves_the_day_to_the_next(
    instance: DagsterInstance, outcome: tags.Outcome, event: str
) -> None:
    before = add_day_run(instance, {"start": "04:00"}, claimed=True)
    end(instance, before, outcome, event, "04:02")
    again = add_day_run(instance, {"start": "11:59"})

    claim_day(instance, again, TODAY, _free)

    assert tags_of(instance, again)[tags.CLAIM] == again


@pytest.mark.parametrize(
    ("outcome", "event"),
    [("failed", "failure"), ("refused", "failure"), ("skipped", "failure"), ("interrupted", "cancel")],
)
def test_after_a_run_that_was_no_good_one_that_was_started_at_the_same_time_leaves_the_day_to_the_gate(
    instance: DagsterInstance, outcome: tags.Outcome, event: str
) -> None:
    first, second = add_day_run(instance, {"start": "11:58"}, claimed=True), add_day_run(instance)
    end(instance, first, outcome, event, "12:01")

    with pytest.raises(SupersededError, match=f"run {first} was no good after this one had been started"):
        claim_day(instance, second, TODAY, _free)


def test_a_run_that_died_without_a_word_leaves_the_day_to_the_next(instance: DagsterInstance) -> None:
    add_day_run(instance, {"start": "04:00", "failure": "04:02"}, claimed=True)
    again = add_day_run(instance, {"start": "11:59"})

    claim_day(instance, again, TODAY, _free)

    assert tags_of(instance, again)[tags.CLAIM] == again


def test_a_lost_run_leaves_the_day_to_the_next_once_its_lock_is_free(instance: DagsterInstance) -> None:
    lost = add_day_run(instance, {"start": "04:00"}, claimed=True)
    instance.add_run_tags(lost, {"dagster/max_runtime": "3600"})
    again = add_day_run(instance, {"start": "11:59"})

    claim_day(instance, again, TODAY, _free)

    assert tags_of(instance, again)[tags.CLAIM] == again


def test_runs_that_have_not_claimed_do_not_supersede_each_other(instance: DagsterInstance) -> None:
    add_day_run(instance, {"enqueue": "04:00"})
    add_day_run(instance, {"start": "11:58"})
    ours = add_day_run(instance, {"start": "11:59"})

    claim_day(instance, ours, TODAY, _free)

    assert tags_of(instance, ours)[tags.CLAIM] == ours


def test_yesterdays_run_does_not_supersede_todays(instance: DagsterInstance) -> None:
    yesterday = {tags.DAY: str(TODAY - timedelta(days=1))}
    before = add_run(instance, events={"start": "00:00"}, tagged=yesterday)
    instance.add_run_tags(before, {tags.CLAIM: before})
    ours = add_day_run(instance, {"start": "11:59"})

    claim_day(instance, ours, TODAY, _free)


def test_claiming_twice_is_no_harm(instance: DagsterInstance) -> None:
    run_id = add_day_run(instance, {"start": "11:59"})

    claim_day(instance, run_id, TODAY, _free)
    claim_day(instance, run_id, TODAY, _free)

    assert tags_of(instance, run_id)[tags.CLAIM] == run_id


@op
def work() -> None: ...


@job
def session_cleanup() -> None:
    work()


def test_a_run_that_is_started_again_inherits_all_tags_and_claims_for_itself(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # runs that are really carried out end by the real clock
    parent = session_cleanup.execute_in_process(instance=instance, tags={tags.DAY: str(TODAY)}).run_id
    instance.add_run_tags(parent, {tags.CLAIM: parent, **tags.outcome_tags(parent, "failed")})
    # As the UI and Dagster's own retries do it: with every tag of the parent.
    child = session_cleanup.execute_in_process(instance=instance, tags=tags_of(instance, parent)).run_id
    inherited = tags_of(instance, child)
    assert (inherited[tags.CLAIM], inherited[tags.OUTCOME], inherited[tags.OUTCOME_OF]) == (parent, "failed", parent)

    claim_day(instance, child, TODAY, _free)

    assert tags_of(instance, child)[tags.CLAIM] == child
    assert tags_of(instance, child)[tags.OUTCOME] == tags.UNFINISHED
    newest = day_runs(instance, TODAY)[0]
    assert (newest.run_id, newest.outcome, newest.claimed) == (child, None, True)

    instance.add_run_tags(child, tags.outcome_tags(child, "success"))
    assert day_runs(instance, TODAY)[0].outcome == "success"


def _free(_name: str) -> bool:
    return True
