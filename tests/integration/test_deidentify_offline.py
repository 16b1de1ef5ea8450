"""``fedmed data deidentify`` with every door to the network shut, by one process and by two."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

# Fresh processes read sitecustomize, so the workers' doors are shut too; each attempt leaves a file behind.
SHUT = """
import os, pathlib, socket

def refuse(*_, **__):
    pathlib.Path(os.environ["ATTEMPTS"], str(os.getpid())).touch()
    raise OSError(101, "Network is unreachable")

def only_unix(method):
    def call(self, *args, **kwargs):
        if self.family != socket.AF_UNIX:
            refuse()
        return method(self, *args, **kwargs)
    return call

# Making a socket is let through: urllib3, which Presidio brings, binds one to ::1 when it is imported, to learn whether
# this machine knows IPv6. Nothing is sent and nobody is asked.
for name in ("connect", "connect_ex", "sendto", "sendmsg"):
    setattr(socket.socket, name, only_unix(getattr(socket.socket, name)))
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "create_connection"):
    setattr(socket, name, refuse)
"""


def run(place, *words, script=("-m", "fedmed")):
    (place / "shut").mkdir(exist_ok=True)
    (place / "attempts").mkdir(exist_ok=True)
    (place / "shut" / "sitecustomize.py").write_text(SHUT, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(place / "shut"), "ATTEMPTS": str(place / "attempts")}
    environment |= {"OMP_NUM_THREADS": "1", "HOME": str(place / "home")}
    return subprocess.run(
        [sys.executable, *script, *words], cwd=place, env=environment, capture_output=True, text=True, check=False
    )


def test_the_doors_are_shut(tmp_path):
    done = run(tmp_path, script=("-c", "import socket; socket.create_connection(('127.0.0.1', 9))"))
    assert "Network is unreachable" in done.stderr
    assert list((tmp_path / "attempts").iterdir())


def test_one_process_and_two_give_the_same_and_nobody_tries_the_network(tmp_path):
    lines = [
        {"id": n, "text": f"Dr. Abernathy saw Mary Kowalczyk (MRN {44_000_000 + n}) in Boston, mail m{n}@example.org."}
        for n in range(100)
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (tmp_path / "key").write_bytes(b"sixteen bytes or more")
    for workers in ("1", "2"):
        words = ["data", "deidentify", "in.jsonl", "--out", f"out{workers}.jsonl", "--report", f"r{workers}.json"]
        done = run(tmp_path, *words, "--workers", workers, "--key-file", "key")
        assert done.returncode == 0, done.stderr
        assert "100 records, 100 with identifiers" in done.stdout
        assert "Abernathy" not in done.stdout + done.stderr
        assert "Warning" not in done.stderr
    assert (tmp_path / "out1.jsonl").read_bytes() == (tmp_path / "out2.jsonl").read_bytes()
    first = json.loads((tmp_path / "out1.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["text"] == "[NAME] saw [NAME] (MRN [MRN]) in [LOCATION], mail [EMAIL]."
    assert not list((tmp_path / "attempts").iterdir())
