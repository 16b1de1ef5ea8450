"""The demo with its references: ``make bench-demo`` -> benchmarks/results/demo.json and docs/demo.svg.

Resumable: a run of the same sources that was cut off goes on where it was; a finished one is only drawn again.
"""

from __future__ import annotations

import argparse
import html
import json
from pathlib import Path
from typing import Any

from stamp import stamp

from fedmed.config.load import load_config
from fedmed.config.recipes import find_recipe
from fedmed.config.schema import FedMedConfig
from fedmed.pipeline.comparison import REFERENCES
from fedmed.pipeline.federation import resume_federation, run_federation

RESULTS = Path(__file__).parent / "results" / "demo.json"
PICTURE = Path(__file__).parents[1] / "docs" / "demo.svg"
KEPT = (
    *("seed", "model", "dataset", "algorithm", "rounds", "hospitals", "loss", "gain", "evaluation", "comparison"),
    *("train_tokens", "wall_s", "bytes", "peak_rss_mb", "adapter_sha256", "environment"),
)


def measure(recipe: str) -> dict[str, Any]:
    """Run the recipe with all references, or take up the run of the same settings and sources."""
    config = load_config(recipe)
    about, digest = stamp(config.as_dict(), Path(__file__), find_recipe(recipe))
    return _run(config, recipe, Path("output-models") / f"bench-{recipe}-{digest}") | {"environment": about}


def _run(config: FedMedConfig, recipe: str, folder: Path) -> dict[str, Any]:
    if (folder / "summary.json").is_file():
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return summary if summary["status"] == "finished" else resume_federation(folder, compare=REFERENCES).summary
    return run_federation(config, out=folder, recipe=recipe, compare=REFERENCES, command="make bench-demo").summary


def bars(summary: dict[str, Any]) -> list[tuple[str, float, str]]:
    """(label, held-out loss, colour), from the worst reference to the best."""
    few_shot, others = summary["evaluation"]["few_shot"], summary["comparison"]
    return [
        ("base model", summary["loss"]["base"], "#94a3b8"),
        (f"base, {few_shot['examples']} worked examples in the prompt", few_shot["loss"], "#94a3b8"),
        ("control: trained on shuffled answers", others["shuffled"]["loss"], "#94a3b8"),
        ("each hospital alone (mean)", others["local"]["loss"], "#60a5fa"),
        ("federated: records stay at home", summary["loss"]["federated"], "#0f766e"),
        ("all records in one place", others["central"]["loss"], "#60a5fa"),
    ]


def draw(summary: dict[str, Any]) -> str:
    """A bar chart as SVG text; the numbers stand beside the bars, which start at zero."""
    rows = bars(summary)
    widest = max(loss for _, loss, _ in rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {34 * len(rows) + 50}" font-family="sans-serif" '
        'font-size="14" role="img"><title>Held-out loss of the demo and its references</title>'
        f'<rect width="760" height="{34 * len(rows) + 50}" fill="#ffffff"/>'
        '<text x="16" y="26" font-weight="bold" fill="#0f172a">'
        "Held-out loss, nats per answer token (lower is better)</text>"
    ]
    for number, (label, loss, colour) in enumerate(rows):
        y = 44 + 34 * number
        parts.append(
            f'<text x="300" y="{y + 17}" text-anchor="end" fill="#0f172a">{html.escape(label)}</text>'
            f'<rect x="310" y="{y}" width="{380 * loss / widest:.1f}" height="24" rx="3" fill="{colour}"/>'
            f'<text x="{318 + 380 * loss / widest:.1f}" y="{y + 17}" fill="#0f172a">{loss:.2f}</text>'
        )
    return "".join(parts) + "</svg>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="cpu_demo")
    summary = measure(parser.parse_args().recipe)
    RESULTS.write_text(json.dumps({key: summary[key] for key in KEPT}, indent=1) + "\n", encoding="utf-8")
    PICTURE.write_text(draw(summary), encoding="utf-8")
    print(f"{RESULTS}\n{PICTURE}")  # noqa: T201


if __name__ == "__main__":
    main()
