"""A run's decisions and what they stand on, in its folder: written as they are made, and thought over again.

    decisions.jsonl   one line a decision: round, decision, reason, hospitals, numbers
    evidence.jsonl    one line a step of ``facts``: what the agent was told, and the judge's answers

The evidence holds counts, seconds and losses of public records; nothing of a hospital's records.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedmed.agent.facts import Closing, Decision, Opening, Setting, Trial, Weighing
from fedmed.agent.noise import Losses
from fedmed.agent.reasoning import Reasoning
from fedmed.errors import DecisionLogError
from fedmed.utils.files import append_line, write_atomic

DECISIONS, EVIDENCE = "decisions.jsonl", "evidence.jsonl"
Line = dict[str, Any]


class DecisionLog:
    """Both files of one run.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.decisions, self.evidence = folder / DECISIONS, folder / EVIDENCE

    def begin(self, setting: Setting) -> None:
        """Start both files afresh."""
        write_atomic(self.decisions, "")
        write_atomic(self.evidence, _text({"step": "begin", "facts": setting.as_dict()}) + "\n")

    def enter(self, step: str, facts: Any, judged: Mapping[str, Losses], decisions: Sequence[Decision]) -> None:
        """One step: its decisions, then what they stand on.

        Raises:
            OutputNotWritableError, DiskFullError.
        """
        for decision in decisions:
            append_line(self.decisions, _text(decision.as_dict()))
        answers = {name: losses.tolist() for name, losses in judged.items()}
        append_line(self.evidence, _text({"step": step, "facts": asdict(facts), "judged": answers}))

    def cut_after(self, round: int) -> list[Line]:
        """Drop what belongs to later rounds, for a run that goes on from its checkpoint; the evidence that is left.

        Raises:
            DecisionLogError: a file is gone or damaged.
        """
        evidence = [line for line in _lines(self.evidence) if line["step"] == "begin" or _round(line["facts"]) <= round]
        decisions = [line for line in _lines(self.decisions) if _round(line) <= round]
        write_atomic(self.evidence, "".join(_text(line) + "\n" for line in evidence))
        write_atomic(self.decisions, "".join(_text(line) + "\n" for line in decisions))
        return evidence


def read_decisions(folder: Path) -> list[Line]:
    """The decisions of a run. Raises DecisionLogError: there are none, or the file is damaged."""
    return _lines(folder / DECISIONS)


@dataclass(frozen=True, slots=True)
class Replayed:
    """A run's decisions, made again from its evidence."""

    decisions: int  # in the log
    differing: tuple[str, ...]  # what is not as it was; empty: all decisions are those of the log


def replay(folder: Path) -> Replayed:
    """Make a run's decisions again from ``evidence.jsonl``, and compare them with ``decisions.jsonl``.

    Raises:
        DecisionLogError: a file is gone or damaged, or the evidence lacks what a decision would have been made from.
    """
    logged = read_decisions(folder)
    _, made = think_again(_lines(folder / EVIDENCE))
    again = [json.loads(_text(decision.as_dict())) for decision in made]
    differing = [
        f"line {number}: '{old['decision']}' of round {old['round']} comes out as '{new['decision']}': {new['reason']}"
        for number, (old, new) in enumerate(zip(logged, again, strict=False), 1)
        if old != new
    ]
    if len(logged) != len(again):
        differing.append(f"the log holds {len(logged)} decisions, the evidence gives {len(again)}")
    return Replayed(len(logged), tuple(differing))


def think_again(evidence: Sequence[Mapping[str, Any]]) -> tuple[Reasoning, list[Decision]]:
    """What the agent knows after this evidence, and what it decided on the way.

    Raises:
        DecisionLogError: the evidence does not begin as it should, or does not hold an answer that is needed.
    """
    decisions: list[Decision] = []
    try:
        if evidence[0]["step"] != "begin":
            raise KeyError("begin")
        reasoning = Reasoning(Setting.read(evidence[0]["facts"]))
        for line in evidence[1:]:
            decisions += _step(reasoning, line)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DecisionLogError(
            f"{EVIDENCE} does not hold what the decisions were made from ({type(error).__name__}: {error})",
            "put back the file as the run left it",
        ) from error
    return reasoning, decisions


def _step(reasoning: Reasoning, line: Mapping[str, Any]) -> list[Decision]:
    facts: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in line["facts"].items()}
    judged = {name: np.array(losses, dtype=np.float64) for name, losses in line["judged"].items()}

    def judge(trial: Trial) -> Losses:
        return judged[trial.name]

    match line["step"]:
        case "open":
            return reasoning.opens(Opening(**facts))[1]
        case "weigh":
            return reasoning.weighs(Weighing(**facts), judge)[1]
        case "close":
            return reasoning.closes(Closing(**facts), judge)[1]
        case other:
            raise KeyError(other)


def _lines(path: Path) -> list[Line]:
    try:
        raw = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DecisionLogError(f"{path} cannot be read", "name the folder of a run with federated.agent on") from error
    return list(_whole_lines(path, raw))


def _whole_lines(path: Path, raw: str) -> Iterator[Line]:
    for number, text in enumerate(raw.split("\n")[:-1], 1):  # what follows the last newline is half a line
        try:
            line = json.loads(text)
            if not isinstance(line, dict):
                raise ValueError
        except ValueError as error:
            raise DecisionLogError(f"{path} line {number} is no line of it", "put back the file as it was") from error
        yield line


def _round(values: Mapping[str, Any]) -> int:
    return int(values["round"])


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, allow_nan=False)
