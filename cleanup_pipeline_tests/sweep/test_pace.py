"""A stride's size, fed with steps of which the cost is known."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanup_pipeline.sweep.pace import Stride

TARGET_S = 0.0015
LEAST_UNIT_S = 1e-6


def walk(
    fixed_s: float,
    unit_s: Callable[[int], float],
    steps: int,
    *,
    first: int = 64,
    noise: float = 0.0,
    held_up: float = 0.0,
    late_s: float = 0.0,
) -> list[tuple[int, float]]:
    """Sizes and seconds of so many steps that cost `fixed_s` and, at step `i`, `unit_s(i)` a unit.

    That share of the steps is held up by 8 ms on average, and each of four messages by `late_s`.
    """
    chance = random.Random(1)  # noqa: S311 -- noise, no secret
    stride = Stride(TARGET_S, first, LEAST_UNIT_S, far_s=fixed_s if late_s else 0.0)
    taken = []
    for i in range(steps):
        size = stride.size
        seconds = (fixed_s + size * unit_s(i)) * chance.lognormvariate(0, noise)
        delay = chance.expovariate(1 / 0.008) if chance.random() < held_up else 0.0
        late = sum(chance.expovariate(1 / late_s) for _ in range(4)) if late_s else 0.0
        stride.took(size, seconds + delay + late)
        taken.append((size, seconds))
    return taken


@pytest.mark.parametrize(("fixed_s", "noise"), [(0, 0), (0.0005, 0.2), (0.001, 0.2), (0.003, 0.1), (0.05, 0.0)])
def test_what_a_step_costs_whatever_its_size_does_not_make_the_steps_small(fixed_s: float, noise: float) -> None:
    taken = walk(fixed_s, lambda _: 5e-6, 200, noise=noise)
    # Half of the target is left for the rows in any case: 150 of them.
    assert sum(size for size, _ in taken[100:]) / 100 > 60


def test_steps_end_near_the_target_once_their_cost_is_known() -> None:
    taken = [seconds for _, seconds in walk(0.0005, lambda _: 5e-6, 100)[20:]]
    assert max(taken) < 1.2 * TARGET_S
    assert sum(seconds > 0.9 * TARGET_S for seconds in taken) > 0.8 * len(taken)  # all but the short ones


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_a_busy_machine_makes_steps_neither_small_nor_long(share: float) -> None:
    taken = walk(0.001, lambda _: 16e-6, 2_000, noise=0.2, held_up=share)
    assert sum(size for size, _ in taken) / len(taken) > 10
    assert sum(seconds > 3 * TARGET_S for _, seconds in taken) < 0.01 * len(taken)


@pytest.mark.parametrize(("fixed_s", "late_s"), [(0.002, 0.0002), (0.008, 0.0005), (0.08, 0.002)])
def test_a_far_server_of_which_the_answers_come_now_sooner_now_later_makes_steps_neither_small_nor_long(
    fixed_s: float, late_s: float
) -> None:
    taken = walk(fixed_s, lambda _: 5e-6, 2_000, late_s=late_s)
    sizes = [size for size, _ in taken[200:]]
    assert sum(sizes) / len(sizes) > 30
    assert sum(5e-6 * size > 4 * late_s + 3 * TARGET_S for size in sizes) < 0.01 * len(sizes)


def test_after_an_empty_stretch_few_steps_are_long() -> None:
    taken = walk(0.0005, lambda i: 1e-7 if i < 50 else 1e-5, 90)
    assert sum(seconds > 3 * TARGET_S for _, seconds in taken[50:]) <= 3
    assert all(seconds < 1.5 * TARGET_S for _, seconds in taken[65:])


def test_a_single_step_that_was_held_up_does_not_stay_in_memory() -> None:
    taken = walk(0.0005, lambda i: 1e-3 if i == 50 else 5e-6, 120)
    assert min(size for size, _ in taken[51:]) >= min(size for size, _ in taken[20:50]) // 8
    assert taken[-2][0] > 0.8 * taken[49][0]


def test_rows_that_each_take_longer_than_a_step_should_are_taken_one_or_two_at_a_time() -> None:
    taken = walk(0.0005, lambda _: 0.05, 40)
    assert all(size <= 2 for size, _ in taken[1:])


@given(st.lists(st.floats(min_value=0, max_value=10), max_size=60), st.integers(1, 1_000_000))
def test_a_size_is_at_least_one_and_at_most_double(seconds: list[float], first: int) -> None:
    stride = Stride(TARGET_S, first, LEAST_UNIT_S)
    most = first
    for took in seconds:
        assert 1 <= stride.size <= max(most, 2)
        stride.took(stride.size, took)
        most *= 2
