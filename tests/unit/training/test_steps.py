from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.config.schema import TrainingSection
from fedmed.errors import EmptyDataError
from fedmed.training.steps import learning_rate, plan_steps, steps_per_round

pytestmark = [pytest.mark.unit, pytest.mark.property]


def rows_of(steps: list) -> list[int]:
    return [row for step in steps for batch in step for row in batch]


@given(
    num_rows=st.integers(1, 40),
    batch=st.integers(1, 5),
    grouped=st.integers(1, 4),
    max_steps=st.none() | st.integers(1, 6),
    epochs=st.integers(1, 3),
)
def test_rounds_together_read_every_row_equally_often(num_rows, batch, grouped, max_steps, epochs):
    config = TrainingSection(batch_size=batch, gradient_accumulation_steps=grouped, max_steps=max_steps, epochs=epochs)
    seen: Counter[int] = Counter()
    for number in range(1, 5):
        steps = plan_steps(num_rows, config, seed=3, hospital="hospital_A", round_number=number)
        assert len(steps) == steps_per_round(num_rows, config)
        assert all(1 <= len(step) <= grouped and all(1 <= len(rows) <= batch for rows in step) for step in steps)
        seen.update(rows_of(steps))
    counts = [seen[row] for row in range(num_rows)]
    assert max(counts) - min(counts) <= 1


def test_epochs_are_whole_passes_in_another_order_each():
    config = TrainingSection(batch_size=2, gradient_accumulation_steps=2, epochs=2)
    rows = rows_of(plan_steps(7, config, seed=1, hospital="hospital_A", round_number=1))
    assert sorted(rows[:7]) == sorted(rows[7:]) == list(range(7))
    assert rows[:7] != rows[7:]


def test_hospitals_and_seeds_read_in_different_orders():
    config = TrainingSection(max_steps=4)
    plans = {
        (seed, name): tuple(rows_of(plan_steps(100, config, seed=seed, hospital=name, round_number=1)))
        for seed in (1, 2)
        for name in ("hospital_A", "hospital_B")
    }
    assert len(set(plans.values())) == 4


def test_a_hospital_without_rows_is_named():
    with pytest.raises(EmptyDataError, match="hospital_B"):
        plan_steps(0, TrainingSection(), seed=1, hospital="hospital_B", round_number=1)


def test_the_cosine_spans_all_rounds_and_the_warm_up_comes_once():
    config = TrainingSection(learning_rate=1.0, warmup_ratio=0.25)
    rates = [
        learning_rate(config, step=step, steps=4, round_number=number, rounds=2)
        for number in (1, 2)
        for step in range(4)
    ]
    assert rates[:2] == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    expected = [0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    assert rates[2:] == pytest.approx(expected)


def test_a_constant_rate_stays():
    config = TrainingSection(learning_rate=0.5, lr_scheduler="constant")
    assert {
        learning_rate(config, step=s, steps=3, round_number=r, rounds=9) for s in range(3) for r in range(1, 10)
    } == {0.5}
