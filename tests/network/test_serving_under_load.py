"""A crowd of clients at once, slow, broken and gone ones among them: nothing is lost, mixed up or kept."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.network

Start = Callable[..., "Server"]


class Server:
    """A process of ``tests/serving_writer.py``: the application as it is served, a writer in place of the model."""

    def __init__(self, audit: Path, *words: str) -> None:
        self.audit = audit
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving_writer", str(audit), *words],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def memory(self) -> float:
        """Resident, in MB."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def audited(self) -> list[str]:
        return [json.loads(line)["id"] for line in self.audit.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Server] = []

    def run(*words: str) -> Server:
        started.append(Server(tmp_path / f"audit-{len(started)}.jsonl", *words))
        return started[-1]

    yield run
    for server in started:
        server.process.kill()
        server.process.communicate()


def word(draw: random.Random) -> str:
    """Letters that no other question holds."""
    return "zy" + "".join(draw.choice("bcdfghjklmnpqrstvw") for _ in range(14)) + "zy"


def request(body: bytes, *, length: int | None = None, kind: str = "application/json") -> bytes:
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def question(about: str, stream: bool) -> bytes:
    messages = [{"role": "user", "content": f"What is {about}?"}]
    return json.dumps({"model": "first", "messages": messages, "stream": stream}).encode()


async def exchange(port: int, data: bytes, *, pause: float = 0.0) -> tuple[int, bytes]:
    """Send, in pieces where there is a pause between them, and read to the end, as slowly."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        step = len(data) // 12 + 1 if pause else len(data)
        for place in range(0, len(data), step):
            writer.write(data[place : place + step])
            await writer.drain()
            await asyncio.sleep(pause)
        raw = b""
        while piece := await reader.read(64 if pause else 65536):
            raw += piece
            await asyncio.sleep(pause / 4)
        return int(raw.split(b" ", 2)[1]), raw
    finally:
        writer.close()


def id_of(raw: bytes) -> str:
    found = re.search(rb'"id": ?"(chatcmpl-\w+)"', raw)
    assert found, raw
    return found[1].decode()


class Crowd:
    """Who asks, and what became of it."""

    def __init__(self, port: int, seed: int) -> None:
        self.port, self.draw = port, random.Random(seed)
        self.known: set[str] = set()  # words that anybody asked about
        self.given: list[str] = []  # ids of answers that were read
        self.statuses: Counter[int] = Counter()

    async def asks(self, *, stream: bool, pause: float = 0.0) -> None:
        """Until it is answered; a full queue is no answer."""
        about = word(self.draw)
        self.known.add(about)
        while True:
            status, raw = await exchange(self.port, request(question(about, stream)), pause=pause)
            self.statuses[status] += 1
            if status != 429:
                break
            assert b"retry-after" in raw.lower()
            await asyncio.sleep(0.05 + self.draw.random() / 5)
        assert status == 200, raw
        assert set(re.findall(r"zy[a-z]{14}zy", raw.decode())) == {about}
        assert raw.rstrip().endswith(b"[DONE]\n\n\r\n0" if stream else b"}")
        self.given.append(id_of(raw))

    async def leaves(self) -> None:
        about = word(self.draw)
        self.known.add(about)
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = request(question(about, self.draw.random() < 0.5))
        writer.write(data[: self.draw.randrange(10, len(data))] if self.draw.random() < 0.3 else data)
        await writer.drain()
        await asyncio.sleep(self.draw.random() / 5)
        writer.transport.abort()

    async def sends(self, data: bytes, *expected: int) -> None:
        try:
            status, _ = await exchange(self.port, data)
        except (ConnectionError, IndexError):
            status = 413  # it hung up on a body that it would not read
        self.statuses[status] += 1
        assert status in expected, status

    @staticmethod
    def asking(size: int) -> int:
        """How many of them want an answer."""
        return size - size // 5 - 16

    async def wave(self, size: int) -> None:
        """So many clients at once, one in five of whom leaves; the broken ones beside them are always sixteen."""
        large, huge = b'"' + b"x" * 400_000 + b'"', 10**12
        elsewhere = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        broken = [
            self.sends(request(large), 413),
            self.sends(request(b"{}", length=huge), 413),
            self.sends(request(b"{"), 400),
            self.sends(request(b"\xff\xfe"), 400),
            self.sends(request(b"[" * 9999), 400),
            self.sends(request(b"{}", kind="text/plain"), 415),
            self.sends(elsewhere, 404),
            self.sends(b"NONSENSE\r\n\r\n", 400),
        ]
        clients = [self.asks(stream=number % 2 == 0) for number in range(self.asking(size) - size // 8)]
        clients += [self.asks(stream=number % 2 == 0, pause=0.05) for number in range(size // 8)]
        clients += [self.leaves() for _ in range(size // 5)]
        clients += broken + [self.sends(request(b'{"model": "first", "messages": []}'), 400) for _ in range(8)]
        assert len(clients) == size
        self.draw.shuffle(clients)
        await asyncio.gather(*clients)


@pytest.mark.parametrize(
    ("size", "waves"), [(150, 1), pytest.param(200, 4, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_a_crowd_loses_and_mixes_up_nothing_and_memory_is_flat(start: Start, size: int, waves: int) -> None:
    server = start("0.1")
    crowd, memory = Crowd(server.port, 17), []
    for _ in range(waves):
        asyncio.run(crowd.wave(size))
        memory.append(server.memory)
    assert crowd.statuses[200] == waves * Crowd.asking(size)
    assert crowd.statuses[429] > 0  # the queue was full at times, and said so
    assert crowd.statuses[500] == crowd.statuses[503] == 0
    audited = server.audited()
    assert len(audited) == len(set(audited))
    assert set(crowd.given) <= set(audited)
    assert max(memory) - memory[0] < 12, memory  # MB
    assert server.process.poll() is None


def test_a_signal_under_load_loses_no_accepted_question(start: Start) -> None:
    server = start("0.2")

    async def asked(about: str, accepted: list[str]) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request(question(about, stream=True)))
        raw = await reader.readuntil(b"assistant")  # the first event: the question is in the queue
        accepted.append(about)
        while piece := await reader.read(65536):
            raw += piece
        writer.close()
        return int(raw.split(b" ", 2)[1]), raw

    async def run() -> list[tuple[int, bytes]]:
        accepted: list[str] = []
        draw = random.Random(3)
        words = [word(draw) for _ in range(60)]
        asks = [asyncio.ensure_future(asked(about, accepted)) for about in words]
        while len(accepted) < 60:
            await asyncio.sleep(0.01)
        assert not all(one.done() for one in asks)
        server.process.send_signal(signal.SIGTERM)
        replies = await asyncio.gather(*asks)
        for about, (status, raw) in zip(words, replies, strict=True):
            assert status == 200
            assert b"[DONE]" in raw
            assert set(re.findall(r"zy[a-z]{14}zy", raw.decode())) == {about}
        return replies

    replies = asyncio.run(run())
    assert server.process.wait(30) in (0, -signal.SIGTERM)
    assert {id_of(raw) for _, raw in replies} <= set(server.audited())
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(exchange(server.port, b"x"))


def test_an_open_page_does_not_keep_the_server_from_ending(start: Start) -> None:
    server = start("0.02", "page")

    async def hold() -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /demo/gradio_api/heartbeat/abc HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"ALIVE" in await reader.readuntil(b"ALIVE")
        server.process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        await reader.read(-1)
        writer.close()
        return time.monotonic() - begun

    assert asyncio.run(hold()) < 20
    assert server.process.wait(30) in (0, -signal.SIGTERM)
