"""The whole path without a network: nothing even tries to reach one, and it works where there is only loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

SETTINGS = (
    "model.name=builtin:tiny-llama",
    "model.generation.max_new_tokens=8",
    "training.dataset.max_samples=400",
    "training.max_steps=1",
    "training.threads=1",
    "training.evaluation.max_records_per_hospital=2",
)
RUN = ["run", "--recipe", "quick", *(word for setting in SETTINGS for word in ("--set", setting))]
QUESTION = "What is hypertrophic cardiomyopathy?"

# Every door out of a Python process but AF_UNIX: sockets of other families, and name look-ups. What tries one is
# refused as a dead network refuses it, and noted, so that an attempt which the caller swallows is seen as well.
WITHOUT_SOCKETS = """
import json, socket, sys, traceback

attempts = []

def refuse(*_, **__):
    attempts.append("".join(traceback.format_stack(limit=8)[:-1]))
    raise OSError(101, "Network is unreachable")

def only_unix(method):
    def call(self, *args, **kwargs):
        if self.family != socket.AF_UNIX:
            refuse()
        return method(self, *args, **kwargs)
    return call

socket.has_ipv6 = False  # or urllib3 asks the kernel, when imported, whether ::1 can be bound; it sends nothing
plain_init = socket.socket.__init__

def init(self, family=-1, type=-1, proto=-1, fileno=None):
    if fileno is None and family != socket.AF_UNIX:
        refuse()
    plain_init(self, family, type, proto, fileno)

socket.socket.__init__ = init
for name in ("connect", "connect_ex", "bind", "sendto"):
    setattr(socket.socket, name, only_unix(getattr(socket.socket, name)))
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "create_connection"):
    setattr(socket, name, refuse)

from fedmed.cli.app import main

commands = json.loads(sys.argv[1])
codes = []
for words in commands:
    print("COMMAND", flush=True)
    codes.append(main(words))
print("COMMAND", flush=True)
print(json.dumps({"codes": codes, "attempts": attempts}))
"""

# A probe of the isolation itself: which interfaces there are, and what becomes of a connection outwards.
PROBE = """
import socket
try:
    socket.create_connection(("192.0.2.1", 443), timeout=5)
    print("reached")
except OSError:
    print(*(name for _, name in socket.if_nameindex()))
"""


def python(place: Path, *words: str, wrapper: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(place / "no-hub-cache")}
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        environment.pop(name, None)  # it must be offline by itself, not because it is told to
    return subprocess.run(
        [*wrapper, sys.executable, *words], cwd=place, env=environment, capture_output=True, text=True, check=False
    )


def test_no_command_of_the_offline_path_even_tries_to_reach_a_network(tmp_path):
    commands = [
        [*RUN, "--out", "output-models/alone"],
        ["ask", QUESTION, "--json"],
        ["report"],
        ["data", "inspect", "hpo", "--json"],
    ]
    done = python(tmp_path, "-c", WITHOUT_SOCKETS, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    ran, asked, reported, inspected, outcome = done.stdout.split("COMMAND\n")[1:]
    assert json.loads(outcome) == {"codes": [0, 0, 0, 0], "attempts": []}, done.stderr
    assert "Warning" not in done.stderr
    assert "all hospitals" in ran
    answer = json.loads(asked)
    assert (answer["model"], answer["run"]) == ("builtin:tiny-llama", "alone")
    assert reported.strip() == "output-models/alone/report.html"
    assert json.loads(inspected)["records"] == 30_000
    assert json.loads((tmp_path / "output-models/alone/summary.json").read_text())["status"] == "finished"


def test_the_refusal_of_sockets_is_one(tmp_path):
    """The harness of the test above sees an attempt, also one whose failure is swallowed."""
    calls = (
        "socket.create_connection(('127.0.0.1', 9))",
        "socket.socket().connect(('127.0.0.1', 9))",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "socket.getaddrinfo('localhost', 80)",
        "__import__('urllib.request').request.urlopen('http://localhost')",
    )
    script = WITHOUT_SOCKETS.split("from fedmed")[0]
    for call in calls:
        script += f"try:\n    {call}\nexcept OSError:\n    pass\n"
    script += "socket.socketpair()\nprint(len(attempts))"
    done = python(tmp_path, "-c", script)
    assert (done.stdout.strip(), done.returncode) == (str(len(calls)), 0), done.stderr


def strongest_isolation(place: Path) -> tuple[tuple[str, ...], str]:
    """A command before the command that takes its network away, and what it is called."""
    if shutil.which("unshare") is None:
        return (), "no unshare"
    for wrapper in (("unshare", "-n"), ("unshare", "-rn")):
        probe = python(place, "-c", PROBE, wrapper=wrapper)
        if probe.returncode == 0:
            assert probe.stdout.split() == ["lo"], f"{' '.join(wrapper)} left more than loopback: {probe.stdout}"
            return wrapper, " ".join(wrapper)
    return (), "the kernel forbids it"


def test_a_run_works_in_a_network_namespace_with_nothing_but_loopback(tmp_path):
    wrapper, name = strongest_isolation(tmp_path)
    if os.geteuid() == 0:
        assert name == "unshare -n", f"root must be able to leave the network, but: {name}"
    if (
        not wrapper
    ):  # this user may not make a namespace: refused sockets, in the test above, are the strongest there is
        assert name in ("no unshare", "the kernel forbids it")
        return
    done = python(tmp_path, "-m", "fedmed", *RUN, "--out", "isolated", "--json", wrapper=wrapper)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["status"], summary["dataset"]) == ("finished", "hpo")
    assert name in ("unshare -n", "unshare -rn")
