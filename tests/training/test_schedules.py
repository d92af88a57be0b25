"""All schedules: warm-up over steps or tokens, and what comes after it."""

import math
from collections.abc import Callable

import pytest

from pretrain.training.schedules import Constant, Cosine, InverseSqrt, Linear, Schedule, WarmupStableDecay

Make = Callable[[int, int | None], Schedule]

ALL: dict[str, Make] = {
    "constant": lambda steps, tokens: Constant(warmup_steps=steps, warmup_tokens=tokens),
    "cosine": lambda steps, tokens: Cosine(warmup_steps=steps, warmup_tokens=tokens, final_fraction=0.1),
    "linear": lambda steps, tokens: Linear(warmup_steps=steps, warmup_tokens=tokens, final_fraction=0.1),
    "wsd": lambda steps, tokens: WarmupStableDecay(
        warmup_steps=steps, warmup_tokens=tokens, decay_fraction=0.2, decay="linear", final_fraction=0.1
    ),
    "inverse_sqrt": lambda steps, tokens: InverseSqrt(warmup_steps=steps, warmup_tokens=tokens),
}
every_schedule = pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())


@every_schedule
def test_the_warm_up_over_steps_is_a_line_to_the_peak(make: Make) -> None:
    assert [make(4, None)(step, 0, 0.0) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@every_schedule
def test_a_warm_up_over_tokens_counts_tokens_whatever_the_steps(make: Make) -> None:
    assert [make(1000, 4000)(1, tokens, 0.0) for tokens in (1000, 3000, 4000)] == pytest.approx([0.25, 0.75, 1.0])


@every_schedule
def test_without_a_warm_up_the_peak_is_there_at_once(make: Make) -> None:
    assert make(0, None)(0, 512, 0.0) == 1.0


@every_schedule
def test_a_share_is_never_outside_of_0_to_1_and_never_rises_after_the_warm_up(make: Make) -> None:
    schedule = make(10, None)
    shares = [schedule(step, step * 100, step / 90) for step in range(100)]
    assert all(0 < share <= 1 for share in shares)
    assert shares[10:] == sorted(shares[10:], reverse=True)


@every_schedule
def test_what_has_been_trained_is_the_beginning_of_a_longer_run_where_the_schedule_says_so(make: Make) -> None:
    schedule = make(3, None)
    runs = [[schedule(step, step * 100, step / end) for step in range(50)] for end in (50, 200)]
    assert (runs[0] == runs[1]) == schedule.open_ended


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_a_schedule_ends_at_its_final_fraction(name: str) -> None:
    assert ALL[name](4, None)(100, 0, 1.0) == pytest.approx(0.1)


def test_cosine_and_linear_are_half_way_at_half_time() -> None:
    assert ALL["cosine"](4, None)(100, 0, 0.5) == pytest.approx(0.55)
    assert ALL["linear"](4, None)(100, 0, 0.5) == pytest.approx(0.55)
    assert ALL["cosine"](4, None)(100, 0, 0.25) > ALL["linear"](4, None)(100, 0, 0.25) == pytest.approx(0.775)


def test_warmup_stable_decay_stays_at_the_peak_until_it_falls() -> None:
    line, root = (
        WarmupStableDecay(warmup_steps=0, decay_fraction=0.2, decay=decay, final_fraction=0.0)
        for decay in ("linear", "sqrt")
    )
    assert [line(9, 0, progress) for progress in (0.1, 0.5, 0.8)] == pytest.approx([1.0, 1.0, 1.0])
    assert line(9, 0, 0.9) == pytest.approx(0.5)
    assert root(9, 0, 0.85) == pytest.approx(1 - math.sqrt(0.25))


def test_inverse_sqrt_halves_when_steps_or_tokens_quadruple() -> None:
    by_steps, by_tokens = InverseSqrt(warmup_steps=9), InverseSqrt(warmup_steps=9, warmup_tokens=1000)
    assert by_steps(9, 0, 0.0) == 1.0
    assert by_steps(39, 0, 0.0) == pytest.approx(0.5)
    assert by_tokens(0, 4000, 0.0) == pytest.approx(0.5)
