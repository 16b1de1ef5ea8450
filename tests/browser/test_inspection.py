"""The inspection page in a real browser: it opens offline and fits a phone and a desk, in light and dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fedmed.config.load import load_config
from fedmed.pipeline.inspection import inspect_source
from fedmed.pipeline.inspection_page import write_page

pytestmark = pytest.mark.browser

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
MEASURE = """<!doctype html><title>measure</title><pre id="out"></pre>
<iframe id="page" srcdoc="{page}" style="width:{width}px;height:9000px;border:0;color-scheme:{scheme}"></iframe>
<script>
document.getElementById("page").onload = (event) => {{
  const inner = event.target.contentDocument, page = event.target.contentWindow;
  const style = page.getComputedStyle(inner.body);
  const small = [...inner.querySelectorAll("main *")].filter((one) => one.textContent.trim() && !one.children.length)
    .map((one) => parseFloat(page.getComputedStyle(one).fontSize));
  document.getElementById("out").textContent = JSON.stringify({{
    overflow: inner.documentElement.scrollWidth - inner.documentElement.clientWidth,
    letters: Math.min(...small), ink: style.color, paper: style.backgroundColor,
    outside: performance.getEntriesByType("resource").length + page.performance.getEntriesByType("resource").length,
  }});
}};
</script>"""


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marked_scanner: object) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "question": f"What does SECRET{n} have?",
            "answer": f"It is {n} <i>things</i>.",
            "specialty": f"ward{n % 30}" * 3,
        }
        for n in range(200)
    ]
    Path("a-rather-long-name-of-an-export-2026.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = inspect_source(load_config(), "a-rather-long-name-of-an-export-2026.jsonl", scan=50)
    return write_page(made, tmp_path / "inspection.html")


def chromium(tmp_path: Path, address: Path, *options: str) -> str:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "these tests need Chromium; on Debian: apt-get install chromium"
    command = [program, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *options, address.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_the_browser_shows_the_counts_and_no_text(page: Path, tmp_path: Path) -> None:
    dom = chromium(tmp_path, page, "--dump-dom")
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", dom.split("</style>")[1]))
    for words in ("200 records", "100 % of the records scanned", "a sample of 50 of 200", "names", "hospital_D"):
        assert words in shown
    assert "SECRET" not in dom
    assert "things" not in dom
    assert re.findall(r"https?://", dom) == []


@pytest.mark.parametrize("width", [360, 1100])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_phone_and_desk_in_light_and_dark(page: Path, tmp_path: Path, width: int, scheme: str) -> None:
    source = page.read_text(encoding="utf-8").replace("&", "&amp;").replace('"', "&quot;")
    frame = tmp_path / "frame.html"
    frame.write_text(MEASURE.format(page=source, width=width, scheme=scheme), encoding="utf-8")
    dom = chromium(tmp_path, frame, "--dump-dom", "--window-size=1200,2000", "--virtual-time-budget=5000")
    found = re.search(r'<pre id="out">(\{.*?\})</pre>', dom)
    assert found
    measured = json.loads(found.group(1))
    assert measured["overflow"] == 0
    assert measured["letters"] >= 11  # pixels
    assert measured["outside"] == 0
    ink, paper = (sum(map(int, re.findall(r"\d+", measured[key])[:3])) for key in ("ink", "paper"))
    assert (paper > ink + 300) if scheme == "light" else (ink > paper + 300)
