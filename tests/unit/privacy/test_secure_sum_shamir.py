"""Secret sharing against Gaussian elimination, and what t - 1 shares say."""

from __future__ import annotations

import itertools
import random
import secrets

import pytest

from fedmed.errors import SecureSumError
from fedmed.privacy.secure_sum.shamir import LARGEST_POINT, PRIME, combine, split

pytestmark = pytest.mark.unit


def by_elimination(shares: list[tuple[int, int]]) -> list[int]:
    """All coefficients of the polynomial through these points: a linear system, solved modulo the prime."""
    size = len(shares)
    rows = [[pow(point, power, PRIME) for power in range(size)] + [share] for point, share in shares]
    for column in range(size):
        pivot = next(row for row in range(column, size) if rows[row][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        inverse = pow(rows[column][column], PRIME - 2, PRIME)
        rows[column] = [value * inverse % PRIME for value in rows[column]]
        for row in range(size):
            if row != column:
                factor = rows[row][column]
                rows[row] = [(a - factor * b) % PRIME for a, b in zip(rows[row], rows[column], strict=True)]
    return [row[size] for row in rows]


def test_the_modulus_is_prime_by_lucas_and_lehmer():
    value = 4
    for _ in range(521 - 2):
        value = (value * value - 2) % PRIME
    assert value == 0
    assert PRIME > 2**256


@pytest.mark.parametrize(("hospitals", "threshold"), [(2, 2), (3, 2), (5, 3), (6, 6), (9, 1)])
def test_every_choice_of_t_shares_gives_the_secret_that_elimination_gives(hospitals, threshold):
    draw = random.Random(hospitals)
    for secret in (bytes(32), b"\xff" * 32, draw.randbytes(32)):
        shares = split(secret, range(1, hospitals + 1), threshold, draw.randbytes)
        for chosen in itertools.combinations(shares.items(), threshold):
            assert combine(chosen, threshold) == secret
            assert by_elimination(list(chosen))[0] == int.from_bytes(secret, "big")


def test_all_shares_lie_on_one_polynomial_of_degree_t_minus_1_and_no_less():
    shares = split(b"s" * 32, range(1, 8), 4, random.Random(1).randbytes)
    polynomial = by_elimination(list(shares.items()))
    assert all(polynomial[:4])
    assert not any(polynomial[4:])


def test_t_minus_1_shares_fit_every_secret():
    shares = dict(itertools.islice(split(b"s" * 32, range(1, 6), 3, random.Random(2).randbytes).items(), 2))
    for other in (0, 1, 2**256 - 1):
        # A polynomial of degree 2 through both shares and through (0, other) exists: solve for its two coefficients.
        a = (shares[1] - other) % PRIME
        b = (shares[2] - other) % PRIME
        c2 = (b - 2 * a) * pow(2, -1, PRIME) % PRIME
        c1 = (a - c2) % PRIME
        assert all((other + c1 * point + c2 * point * point) % PRIME == share for point, share in shares.items())


def test_shares_are_drawn_anew_each_time_and_from_the_systems_generator():
    first, second = (split(b"s" * 32, (1, 2), 2) for _ in range(2))
    assert first != second
    assert split.__defaults__ == (secrets.token_bytes,)


def test_a_draw_that_is_the_modulus_itself_is_drawn_again():
    draws = [b"\xff" * 66, b"\x00" * 66]
    assert split(bytes(32), (1, 2), 2, lambda _: draws.pop(0)) == {1: 0, 2: 0}
    assert not draws


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split(b"short", (1, 2), 2), "has 5 bytes"),
        (lambda: split(bytes(32), (0, 1), 2), "out of range"),
        (lambda: split(bytes(32), (1, 1), 2), "same point"),
        (lambda: split(bytes(32), (1, LARGEST_POINT + 1), 2), "out of range"),
        (lambda: split(bytes(32), (1, 2), 3), "3 of 2 shares"),
        (lambda: split(bytes(32), (1, 2), 0), "0 of 2 shares"),
        (lambda: combine({1: 5}, 2), "1 shares of a secret that needs 2"),
        (lambda: combine({}, 0), "0 shares"),
        (lambda: combine([(1, 5), (1, 5)], 2), "same point"),
        (lambda: combine([(0, 5), (1, 5)], 2), "out of range"),
        (lambda: combine({1: PRIME, 2: 5}, 2), "outside the field"),
        (lambda: combine({1: -1, 2: 5}, 2), "outside the field"),
        (lambda: combine({1: 1, 2: 2**300}, 2), "do not belong to one secret"),
    ],
)
def test_wrong_points_and_shares_are_refused(call, message):
    with pytest.raises(SecureSumError, match=message):
        call()
