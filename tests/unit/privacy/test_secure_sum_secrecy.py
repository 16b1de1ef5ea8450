"""What the server gets looks random, no secret outlives its use, and none shows in a text."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from scipy import stats

from fedmed.errors import SecureSumError
from fedmed.privacy.secure_sum import hospital
from fedmed.privacy.secure_sum.message_bytes import encode
from fedmed.privacy.secure_sum.messages import LiveList, MaskedInput, Opened

pytestmark = pytest.mark.unit

FALSE_ALARM = 1e-6  # of one test; sources are seeded, so a test that passes once passes always
NUMBERS = 1 << 14


def looks_uniform(words: np.ndarray) -> bool:
    """Chi-square of each byte position's 256 values, 255 degrees of freedom, at ``FALSE_ALARM`` over all positions."""
    table = np.ascontiguousarray(words).view(np.uint8).reshape(words.size, words.itemsize)
    expected = words.size / 256
    statistics = [((np.bincount(column, minlength=256) - expected) ** 2).sum() / expected for column in table.T]
    return bool(max(statistics) < stats.chi2.isf(FALSE_ALARM / len(statistics), 255))


def masked(lab, context, vectors, seed: int = 0) -> dict[str, np.ndarray]:
    heard: list = []
    lab.run(context, vectors, heard=heard, seed=seed)
    return {message.sender: message.words for message in heard if isinstance(message, MaskedInput)}


@pytest.mark.parametrize("bits", [32, 64])
def test_masked_vectors_are_uniform_whatever_is_in_them(lab, bits):
    context = lab.context(3, bits=bits, length=NUMBERS)
    for fill in (0, context.limit("hospital_A")):
        vectors = {name: np.full(NUMBERS, fill) for name in context.names}
        for words in masked(lab, context, vectors).values():
            assert looks_uniform(words)
            assert not looks_uniform(words & np.array(2**bits - 2, words.dtype)), "the test sees one stuck bit"
    assert not looks_uniform(lab.vectors(context)["hospital_A"].astype(context.bounds.dtype)), "and an unmasked vector"


@pytest.mark.parametrize("change", ["attempt", "round"])
def test_masks_of_two_attempts_or_rounds_are_unrelated(lab, change):
    """The same vectors twice, and even the same generator: their difference is uniform, and nothing correlates."""
    first, second = (lab.context(3, length=NUMBERS, **{change: number}) for number in (1, 2))
    vectors = lab.vectors(first)
    one, two = masked(lab, first, vectors), masked(lab, second, vectors)
    limit = stats.norm.isf(FALSE_ALARM / 2) / np.sqrt(NUMBERS)
    for name in first.names:
        assert looks_uniform(one[name] - two[name])
        assert abs(np.corrcoef(one[name].astype(float), two[name].astype(float))[0, 1]) < limit
        assert abs(np.corrcoef(one[name].astype(float), vectors[name].astype(float))[0, 1]) < limit


def test_the_context_alone_changes_every_mask(lab):
    """Keys are fresh in each attempt; if a broken generator repeated them, masks would still differ."""
    vectors = None
    seen = []
    for attempt in (0, 1):
        context = lab.context(3, length=NUMBERS, attempt=attempt)
        vectors = vectors or lab.vectors(context)
        same = {
            name: hospital.begin(
                context, name, lab.identity(name), lab.pins(context), random=random.Random(name).randbytes
            )
            for name in context.names
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lab, "begin", lambda context, seed, same=same: same)
            seen.append(masked(lab, context, vectors))
    assert all(looks_uniform(seen[0][name] - seen[1][name]) for name in seen[0])


def test_nothing_that_the_server_hears_holds_a_part_of_an_unmasked_vector(lab):
    context = lab.context(4, length=64)
    vectors, heard = lab.vectors(context), []
    lab.run(context, vectors, drops={"hospital_C": 3}, heard=heard)
    assert len(heard) == 4 + 4 + 4 + 3 + 3
    for message in heard:
        raw = encode(message, context)
        for vector in vectors.values():
            assert not any(number.tobytes() in raw for number in vector)


def test_nothing_that_the_server_hears_holds_a_seed_or_private_key_in_the_clear(lab):
    context, heard, states = lab.context(4), [], []
    lab.run(context, lab.vectors(context), drops={"hospital_C": 2}, heard=heard, states=states)
    raws = [encode(message, context) for message in heard]
    for secret in secrets_of(states):
        assert not any(secret in raw for raw in raws)


def parts(value: object) -> Iterator[object]:
    """Everything that can be reached from a state."""
    yield value
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from parts(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.items():
            yield from parts(item)
    elif isinstance(value, tuple | list | frozenset):
        for item in value:
            yield from parts(item)


def secrets_of(states: list) -> set[bytes]:
    """Private keys and seeds that hospitals held at any time, identities apart."""
    fields = ("channel", "mask", "seed")
    return {
        getattr(state, field)
        for state in states
        for field in fields
        if isinstance(state, hospital.Advertised | hospital.Shared | hospital.Ready) and hasattr(state, field)
    }


def test_a_state_holds_the_secrets_that_it_still_needs_and_no_others(lab):
    context, states = lab.context(4), []
    lab.run(context, lab.vectors(context), drops={"hospital_C": 3}, states=states)
    needed = {"Advertised": (2, False), "Shared": (3, True), "Ready": (2, True)}
    needed |= {"Masked": (0, True), "Agreed": (0, True)}
    kinds, secrets = set(), secrets_of(states)
    assert len(secrets) == 4 * 3
    for state in states:
        kind = type(state).__name__
        reached = list(parts(state))
        held = {part for part in reached if isinstance(part, bytes) and part in secrets}
        shares = any(isinstance(part, Opened) for part in reached)
        if kind in (*needed, "Done"):
            kinds.add(kind)
            assert (len(held), shares) == needed.get(kind, (0, False)), kind
        else:
            assert not held, kind
    assert kinds == {*needed, "Done"}
    finished = states[-1]
    assert not any(isinstance(part, Opened) for part in parts(finished))


def test_no_state_session_or_message_shows_a_secret_in_its_text(lab):
    context, states, heard = lab.context(4), [], []
    lab.run(context, lab.vectors(context), drops={"hospital_C": 2}, states=states, heard=heard)
    secrets = secrets_of(states) | {lab.identity(name).private for name in context.names}
    opened = {part for state in states for part in parts(state) if isinstance(part, Opened)}
    assert len(opened) > 20
    session = hospital.HospitalSession(context, "hospital_A", lab.identity("hospital_A"), lab.pins(context))
    text = "\n".join(f"{one!r} {one}" for one in [*states, *heard, session, lab.identity("hospital_A")])
    for secret in secrets:
        assert repr(secret)[2:-1] not in text
        assert secret.hex() not in text
        assert str(int.from_bytes(secret, "big")) not in text
    for one in opened:
        assert str(one.value) not in text
        assert repr(one.nonce)[2:-1] not in text


def test_no_error_shows_a_secret(lab):
    context, states, errors = lab.context(4), [], []
    lab.run(context, lab.vectors(context), states=states)
    wrong = LiveList(context.digest, ("hospital_B",))
    for state in states:
        if type(state).__module__ == hospital.__name__:
            for call in (lambda s=state: hospital.step(s, wrong), lambda s=state: hospital.contribute(s, np.zeros(1))):
                with pytest.raises(SecureSumError) as caught:
                    call()
                errors.append(f"{caught.value!r} {caught.value}")
    assert len(errors) > 30
    text = "\n".join(errors)
    assert not any(repr(secret)[2:-1] in text or secret.hex() in text for secret in secrets_of(states))
