"""Nodes on hosts with addresses of their own: slow and lossy links, a narrow one, one that is cut in a round."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from fedmed.config.load import load_config
from fedmed.pipeline.federation import run_federation

pytestmark = [pytest.mark.network, pytest.mark.slow]

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("hosts")
    if not module.possible():
        pytest.skip("network namespaces need root, ip and tc")
    return module


@pytest.mark.timeout(1200)
def test_whatever_the_links_do_the_run_ends_with_the_adapter_of_one_process(
    hosts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = importlib.import_module("network")
    config = load_config(None, (), [*bench.SETTINGS, *bench.SHORT, "federated.rounds=2"])
    folder = Path(tempfile.mkdtemp(prefix="fedmed-"))  # short: a socket's path has at most about 100 bytes
    try:
        found = hosts.under_conditions(config, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    monkeypatch.chdir(tmp_path)
    alone = run_federation(config, out=Path("alone")).summary["adapter_sha256"]
    assert {what: one["adapter_sha256"] for what, one in found.items()} == dict.fromkeys(hosts.CONDITIONS, alone)
    assert all(len(admitted) == 4 for one in found.values() for admitted in one["admitted"])
    assert found["one site cut off in a round"]["seconds"][1] > hosts.CUT_FOR
