"""The report in a real browser: what the page shows after parsing, at both widths, with nothing fetched."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fedmed.evaluation.report import write_report

pytestmark = pytest.mark.browser

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


@pytest.fixture
def page(tmp_path: Path, full_summary: dict[str, Any], round_lines: str) -> Path:
    folder = tmp_path / "run-1"
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(full_summary))
    (folder / "rounds.jsonl").write_text(round_lines)
    (folder / "config.yaml").write_text("federated:\n  rounds: 2\n")
    names = ("run", "audit log", "held-out loss", "sign-off by clinician")
    long = "privacy_audit.json, safety.release.max_hospital_rise=null does without " * 3
    checks = [{"name": name, "kept": name != "held-out loss", "told": long} for name in names]
    gate = {
        "checks": checks,
        "adapter": "9f2c" * 16,
        "evidence_sha256": "0d7a" * 16,
        "overridden": [long.replace(" ", "")],
    }
    return write_report(folder, gate)


def chromium(tmp_path: Path, address: Path, *options: str) -> str:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "these tests need Chromium; on Debian: apt-get install chromium"
    command = [program, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *options, address.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def test_the_browser_shows_the_numbers_and_refers_to_nothing_outside(page: Path, tmp_path: Path) -> None:
    dom = chromium(tmp_path, page, "--dump-dom")
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", dom.split("</style>")[1]))
    for figure in ("3.348 → 2.012", "39.9 % lower", "55.2 %", "1.980", "2.871", "70.0 % (55–82 %)", "0.287", "63.7 MB"):
        assert figure in shown
    assert "Not for clinical use." in shown
    assert "hospital_B, round 2" in shown
    assert re.findall(r"""(?:src|href|action)\s*=\s*["'](?!data:,"|#)[^"']*""", dom) == []
    assert re.findall(r"https?://", dom) == []


MEASURE = """<!doctype html><title>measure</title><pre id="out"></pre>
<iframe id="page" srcdoc="{page}" style="width:{width}px;height:9000px;border:0"></iframe>
<script>
document.getElementById("page").onload = (event) => {{
  const inner = event.target.contentDocument;
  const drawn = (kind) => [...inner.querySelectorAll("." + kind + " svg")].filter((svg) => svg.getClientRects().length);
  const letters = [...inner.querySelectorAll(".tick")].filter((text) => text.getClientRects().length)
    .map((text) => text.getBoundingClientRect().height);
  document.getElementById("out").textContent = JSON.stringify({{
    overflow: inner.documentElement.scrollWidth - inner.documentElement.clientWidth,
    wide: drawn("wide").length, narrow: drawn("narrow").length, letters: Math.min(...letters),
    outside: performance.getEntriesByType("resource").length
      + event.target.contentWindow.performance.getEntriesByType("resource").length,
  }});
}};
</script>"""


@pytest.mark.parametrize(("width", "shown", "hidden"), [(360, "narrow", "wide"), (1100, "wide", "narrow")])
def test_the_page_fits_a_phone_and_a_desk_with_readable_charts(
    page: Path, tmp_path: Path, width: int, shown: str, hidden: str
) -> None:
    source = page.read_text(encoding="utf-8").replace("&", "&amp;").replace('"', "&quot;")
    frame = tmp_path / "frame.html"
    frame.write_text(MEASURE.format(page=source, width=width), encoding="utf-8")
    dom = chromium(tmp_path, frame, "--dump-dom", "--window-size=1200,2000", "--virtual-time-budget=5000")
    found = re.search(r'<pre id="out">(\{.*?\})</pre>', dom)
    assert found
    measured = json.loads(found.group(1))
    assert measured["overflow"] == 0
    assert measured[shown] == 2
    assert measured[hidden] == 0
    assert measured["letters"] >= 11  # pixels
    assert measured["outside"] == 0


def test_a_screenshot_of_the_page_is_not_blank(page: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    chromium(tmp_path, page, f"--screenshot={picture}", "--window-size=1200,1600")
    assert picture.stat().st_size > 50_000
