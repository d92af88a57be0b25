"""The paired test of two models."""

import numpy as np
import pytest

from pretrain.evaluation.comparing import _student, compare


@pytest.mark.parametrize(
    ("freedom", "t", "expected"),
    [(1, 12.706, 0.05), (2, 4.303, 0.05), (10, 2.228, 0.05), (30, 2.750, 0.01), (30, 6.0, 1.394277e-06)],
)
def test_tails_are_those_of_the_tables(freedom, t, expected):
    assert np.interp(t, *_student(freedom)) == pytest.approx(expected, rel=2e-3)


def test_many_degrees_of_freedom_are_the_normal_distribution():
    assert np.interp(1.959964, *_student(10**7)) == pytest.approx(0.05, rel=0.01)


def test_a_pair_is_compared_unit_by_unit():
    generator = np.random.default_rng(0)
    sizes = generator.integers(50, 500, 40)
    hard = generator.normal(3, 1, 40)  # what is hard for one is hard for the other
    first = hard * sizes
    second = (hard - 0.02 + 0.01 * generator.normal(size=40)) * sizes
    found = compare(first, second, sizes)
    assert found.difference == pytest.approx((second.sum() - first.sum()) / sizes.sum())
    assert found.p_value < 1e-6
    assert found.interval[0] < found.difference < found.interval[1] < 0
    back = compare(second, first, sizes)
    assert (back.difference, back.p_value) == (pytest.approx(-found.difference), pytest.approx(found.p_value))


def test_models_that_differ_by_chance_are_told_apart_as_often_as_promised():
    generator = np.random.default_rng(2)
    sizes = np.full(8, 100)
    found = [compare(np.zeros(8), generator.normal(size=8), sizes) for _ in range(1000)]
    assert 0.03 < np.mean([one.p_value < 0.05 for one in found]) < 0.07
    assert 0.03 < np.mean([not one.interval[0] < 0 < one.interval[1] for one in found]) < 0.07


def test_the_same_losses_are_no_difference_and_what_cannot_be_told_is_none():
    sizes, nats = np.array([3, 4]), np.array([1.0, 2.0])
    assert compare(nats, nats, sizes).p_value == 1
    assert compare(nats[:1], nats[:1], sizes[:1]) is None
    assert compare(nats, np.array([1.0, np.inf]), sizes) is None
