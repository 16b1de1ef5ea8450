"""Who may ask, how often and how much."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fedmed.errors import ServeError
from fedmed.serving.limits import ApiKeys, Rate, read_body
from fedmed.serving.messages import ApiError

pytestmark = pytest.mark.unit

WARD, LAB = "k" * 20 + "-ward", "k" * 20 + "-lab"


def keys_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_a_key_is_known_by_its_name(tmp_path: Path) -> None:
    keys = ApiKeys.read(keys_file(tmp_path, f"# who may ask\n\nward {WARD}  # third floor\nlab {LAB}\n"))
    assert keys.name_of(f"Bearer {WARD}") == "ward"
    assert keys.name_of(f"bearer {LAB} ") == "lab"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", f"Basic {WARD}", WARD, f"Bearer {WARD}x", "Bearer \udcff"]
)
def test_any_other_header_is_refused_without_repeating_it(header: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        ApiKeys({"ward": WARD}).name_of(header)
    assert (caught.value.status, caught.value.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert WARD not in caught.value.message


def test_keys_are_not_kept(tmp_path: Path) -> None:
    assert WARD not in repr(vars(ApiKeys({"ward": WARD})))


@pytest.mark.parametrize(
    ("text", "mode", "problem"),
    [
        (f"ward {WARD}", 0o640, "is open to others: chmod 600"),
        (f"ward {WARD}\nlab short", 0o600, "line 2: the key is shorter"),
        (WARD, 0o600, "line 1: not 'name key'"),
        (f"the ward {WARD}", 0o600, "line 1: not 'name key'"),
        (f"ward {WARD}\nward {LAB}", 0o600, "line 2: the name 'ward' is used twice"),
        ("# nobody\n", 0o600, "holds no key"),
    ],
)
def test_a_keys_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, mode: int, problem: str) -> None:
    with pytest.raises(ServeError, match=problem) as caught:
        ApiKeys.read(keys_file(tmp_path, text, mode))
    assert WARD not in str(caught.value)
    assert LAB not in str(caught.value)


def test_a_keys_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="there is no keys file"):
        ApiKeys.read(tmp_path / "none")


def test_an_asker_gets_a_burst_and_then_an_even_rate() -> None:
    now = 100.0
    rate = Rate(6, lambda: now)
    for _ in range(6):
        rate.take("ward")
    with pytest.raises(ApiError) as caught:
        rate.take("ward")
    assert (caught.value.status, caught.value.retry_after) == (429, 10)
    rate.take("lab")  # each has its own
    now += 10.0
    rate.take("ward")
    with pytest.raises(ApiError):
        rate.take("ward")
    now += 3600.0
    for _ in range(6):
        rate.take("ward")
    with pytest.raises(ApiError):
        rate.take("ward")


def test_no_limit_is_no_limit_and_askers_are_not_remembered_for_ever() -> None:
    for _ in range(1000):
        Rate(0).take("ward")
    rate = Rate(1)
    for number in range(10_100):
        rate.take(str(number))
    assert len(rate._buckets) == 10_000


async def parts(*chunks: bytes, pause: float = 0.0) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(pause)
        yield chunk


def read(chunks: AsyncIterator[bytes], declared: str | None = None, seconds: float = 5.0) -> bytes:
    return asyncio.run(read_body(chunks, declared=declared, most=10, seconds=seconds))


def test_a_body_of_the_allowed_size_is_read_whole() -> None:
    assert read(parts(b"12345", b"", b"67890"), "10") == b"1234567890"


@pytest.mark.parametrize(
    ("chunks", "declared"), [((b"12345", b"678901"), None), ((), "11"), ((b"x" * 11,), "3"), ((), "9" * 5000)]
)
def test_a_larger_body_is_refused_whatever_it_declares(chunks: tuple[bytes, ...], declared: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        read(parts(*chunks), declared)
    assert caught.value.status == 413


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    with pytest.raises(ApiError) as caught:
        read(parts(b"1", b"2", pause=1.0), seconds=0.05)
    assert caught.value.status == 408
