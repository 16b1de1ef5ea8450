"""The report's section on the coordinator agent: what it decided, and why. report_parts -> HERE -> report.

Not covered: rounds in which it only asked everybody and kept the result; they are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fedmed.evaluation import report_parts as part

Json = dict[str, Any]

_EVERY_ROUND = ("ask", "weigh", "keep")
_MEANING = {
    "leave out": "updates left out, as they made the loss on public records worse",
    "drift": "hospitals whose updates lost worth",
    "quarantine": "quarantines",
    "probation": "returns on probation",
    "readmit": "hospitals taken back",
    "shorten": "hospitals given fewer steps",
    "roll back": "rounds rolled back",
    "spare": "hospitals not asked, for their ε",
    "take all": "rounds in which too few would have been left",
    "stop": "early end",
}
MOST = 60  # lines shown


def decisions(lines: Sequence[Json]) -> str:
    """What was out of the ordinary, by round; "" where no agent watched the run."""
    told = [line for line in lines if isinstance(line.get("decision"), str)]
    if not told:
        return ""
    counts = Counter(line["decision"] for line in told)
    kept = f"{counts['keep']} of {counts['ask']} rounds stand"
    pairs = [("Rounds", part.esc(kept))]
    pairs += [(meaning.capitalize(), str(counts[kind])) for kind, meaning in _MEANING.items() if counts[kind]]
    rare = [line for line in told if line["decision"] not in _EVERY_ROUND]
    note = (
        '<p class="note">An agent watched this run: arithmetic on what a coordinator can see, no language model. It'
        " judged updates on public records that no hospital holds. All its decisions with their numbers are in"
        " <code>decisions.jsonl</code>; <code>fedmed decisions</code> makes them again from"
        " <code>evidence.jsonl</code>.</p>"
    )
    if not rare:
        return note + part.facts(pairs) + "<p>It found nothing wrong with any hospital.</p>"
    rows = [
        [part.count(part.number(line, "round")), part.esc(line["decision"]), part.esc(line.get("reason", ""))]
        for line in rare[:MOST]
    ]
    more = f"<p>{len(rare) - MOST} more are in the file.</p>" if len(rare) > MOST else ""
    return note + part.facts(pairs) + part.table("Decisions", ["round", "decision", "reason"], rows) + more
