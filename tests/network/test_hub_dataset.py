"""Any dataset of the hub loads by its id. A stand-in on loopback plays the hub; no other network is touched."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.network

REPO = "AI-MO/ai-medical-dataset"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS = [{"question": f"What is sign {n}?", "answer": f"Sign {n} is a finding."} for n in range(40)]

LOAD = """
import json, sys
from fedmed.data.load_dataset import load_with_report
from fedmed.errors import FedMedError
try:
    dataset, report = load_with_report(sys.argv[1], hub_split=sys.argv[2])
except FedMedError as error:
    print(json.dumps({"error": type(error).__name__, "code": error.exit_code, "message": str(error)}))
else:
    print(json.dumps({"rows": dataset.to_list(), "columns": dataset.column_names, "kept": report.kept}))
"""


class HubStandIn(BaseHTTPRequestHandler):
    """The routes that ``datasets`` asks for one repository: its info, its file list, its files."""

    files: dict[str, bytes] = {}  # noqa: RUF012 - set once for the server's subclass
    gated = False
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        api, files = f"/api/datasets/{REPO}", f"/datasets/{REPO}/resolve/"
        if path == api or path.startswith(f"{api}/revision/"):
            self._json({"id": REPO, "sha": COMMIT, "private": False, "gated": "manual" if self.gated else False,
                        "tags": [], "siblings": [{"rfilename": name} for name in self.files]})  # fmt: skip
        elif path.startswith(f"{api}/tree/"):
            inside = path.removeprefix(f"{api}/tree/").partition("/")[2]
            self._json(self._entries(inside))
        elif path.startswith(f"{api}/paths-info/"):
            wanted = json.loads(self.body)["paths"]
            self._json([entry for entry in self._entries("") if entry["path"] in wanted])
        elif path.startswith(files):
            self._file(path.removeprefix(files).partition("/")[2])
        else:
            self._refuse(404, "RepoNotFound")

    def _entries(self, inside: str) -> list[dict[str, Any]]:
        below = f"{inside}/" if inside else ""
        entries: list[dict[str, Any]] = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in self.files.items()
            if name.startswith(below)
        ]
        folders = sorted({name.rpartition("/")[0] for name in self.files if "/" in name} - {inside})
        return entries + [{"type": "directory", "path": folder, "size": 0, "oid": COMMIT} for folder in folders]

    def _file(self, name: str) -> None:
        if self.gated:
            self._refuse(403, "GatedRepo")
        elif name not in self.files:
            self._refuse(404, "EntryNotFound")
        else:
            data = self.files[name]
            self._send(200, data, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        words = "Access to this dataset is gated" if code == "GatedRepo" else code
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": words, "X-Repo-Commit": COMMIT})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the test's output is for failures."""


Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[ThreadingHTTPServer] = []

    def start(files: dict[str, bytes], gated: bool = False) -> str:
        handler = type("Handler", (HubStandIn,), {"files": files, "gated": gated})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def load(endpoint: str, home: Path, name: str = REPO, split: str = "train", **env: str) -> dict[str, Any]:
    """Load in a process of its own, because the hub's client reads HF_ENDPOINT when it is imported."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()
    }
    done = subprocess.run(
        [sys.executable, "-c", LOAD, name, split],
        env=clean | settings | env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def jsonl() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("file", "data"),
    [("train.jsonl", jsonl()), ("data/train-00000-of-00001.parquet", parquet())],
    ids=["jsonl", "parquet"],
)
def test_a_hub_dataset_loads_by_its_id(serve: Serve, tmp_path: Path, file: str, data: bytes) -> None:
    loaded = load(serve({file: data}), tmp_path)
    assert loaded["kept"] == len(ROWS), loaded
    assert [(row["question"], row["answer"]) for row in loaded["rows"]] == [(r["question"], r["answer"]) for r in ROWS]
    assert loaded["columns"] == ["id", "question", "answer", "kind", "specialty", "source", "group", "split"]
    assert {row["source"] for row in loaded["rows"]} == {REPO}
    assert {row["split"] for row in loaded["rows"]} == {"train", "test"}


def test_a_dataset_that_the_hub_does_not_have_is_one_line(serve: Serve, tmp_path: Path) -> None:
    failed = load(serve({"train.jsonl": jsonl()}), tmp_path, name="nobody/nothing")
    assert failed["error"] == "HubError"
    assert "'nobody/nothing'" in failed["message"]
    assert "check the id" in failed["message"]
    assert "\n" not in failed["message"]


def test_a_gated_dataset_says_to_accept_its_terms(serve: Serve, tmp_path: Path) -> None:
    failed = load(serve({"train.jsonl": jsonl()}, gated=True), tmp_path)
    assert failed["error"] == "HubError"
    assert REPO in failed["message"]
    assert "HF_TOKEN" in failed["message"]


def test_a_hub_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    failed = load("http://127.0.0.1:9", tmp_path)
    assert failed["error"] == "HubError"
    assert "cannot be reached" in failed["message"]
    assert "training.dataset.name=hpo" in failed["message"]


def test_offline_mode_is_named_as_unreachable(tmp_path: Path) -> None:
    failed = load("http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert failed["error"] == "HubError"
    assert REPO in failed["message"]
    assert "cannot be reached" in failed["message"]


def test_a_split_that_the_dataset_lacks_is_named(serve: Serve, tmp_path: Path) -> None:
    failed = load(serve({"train.jsonl": jsonl()}), tmp_path, split="holdout")
    assert failed["error"] == "HubError"
    assert "holdout" in failed["message"]
    assert "hub_split" in failed["message"]


def test_unknown_columns_of_a_hub_dataset_are_listed(serve: Serve, tmp_path: Path) -> None:
    odd = json.dumps({"foo": "a", "bar": "b"}).encode()
    failed = load(serve({"train.jsonl": odd}), tmp_path)
    assert failed["error"] == "DataFormatError"
    assert "bar, foo" in failed["message"]
