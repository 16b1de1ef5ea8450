"""``fedmed rate sheet``: answers of several models in hidden order on one page, the key apart. run -> HERE -> raters.

*base* is the run's base model, *federated* its shared adapter, *local* what one hospital has alone
(``fedmed evaluate --joining`` trains it). All answer through the same rails: people read them. Confidence is the token
probability for all three, as a calibrator belongs to one adapter. The order is drawn anew for each question, from a
seed of the operating system that only the key holds.

Not covered: hiding what an answer's style gives away; whoever has the key, and the sheet's questions and the models,
which write the same answers again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from fedmed.config.schema import FedMedConfig
from fedmed.errors import DataFormatError, DataNotFoundError, RunNotFoundError
from fedmed.model.adapter import WEIGHTS, adapter_sha256, attach_adapter, load_adapter, set_adapter_state
from fedmed.model.load_model import load_model_and_tokenizer
from fedmed.safety.assistant import MedicalAssistant, adapter_folder, run_config
from fedmed.safety.batch import Item, read_items
from fedmed.types import Answer
from fedmed.utils.console import track
from fedmed.utils.files import check_writable, write_atomic, write_json
from fedmed.utils.hash_chain import canonical
from fedmed.utils.random_streams import stream

SYSTEMS = ("base", "local", "federated")
FORMAT = 1


def make_sheet(
    path: Path,
    questions: Path,
    *,
    out: Path,
    key: Path,
    systems: Sequence[str] = SYSTEMS,
    hospital: str | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """Let the models of a run answer, and write the sheet and its key.

    Args:
        path: a run with a finished shared adapter.
        questions: JSONL, ``{"id", "question"}``.
        out: the sheet, one HTML file.
        key: which answer is whose; readable by its owner only.
        systems: of ``SYSTEMS``, at least two.
        hospital: whose local adapter; None: the first that was trained.
        seed: of the order; None: of the operating system.

    Returns:
        The key.

    Raises:
        RunNotFoundError: no shared adapter, or no local one. DataError: the questions cannot be used.
        What loading the model raises. OutputNotWritableError, DiskFullError.
    """
    asked = _questions(questions)
    for place in (out.parent, key.parent):
        check_writable(place)
    config = run_config(path, (), None)
    local = _local(path, hospital) if "local" in systems else None
    answers = _answers(path, config, [one.question for one in asked], systems, local)
    seed = secrets.randbits(63) if seed is None else seed
    shown, solved = [], []
    for number, one in enumerate(asked):
        order = [systems[at] for at in stream(seed, "rating", number).permutation(len(systems))]
        said = {name: answers[name][number] for name in order}
        shown.append({"id": str(one.id), "question": one.question, "answers": [said[name].answer for name in order]})
        letters = {chr(ord("A") + at): name for at, name in enumerate(order)}
        withheld = [name for name in systems if not said[name].allowed]
        solved.append({"id": str(one.id), "letters": letters, "withheld": withheld})
    sheet = hashlib.sha256(canonical({"questions": shown})).hexdigest()
    made = {
        "format": FORMAT, "sheet": sheet, "run": path.resolve().name, "systems": list(systems),
        "adapter_sha256": adapter_sha256(load_adapter(adapter_folder(path, None))),
        "local": local.parent.name if local else None, "seed": seed, "questions": solved,
    }  # fmt: skip
    write_json(key, made, private=True)
    write_atomic(out, sheet_page({"id": sheet, "questions": shown}))
    return made


def _questions(file: Path) -> list[Item]:
    if not file.is_file():
        raise DataNotFoundError(f"there is no file {file}", "give a JSONL file with --questions")
    asked = read_items(file)
    if len({str(one.id) for one in asked}) < len(asked):
        raise DataFormatError(f"{file} has two questions of one id", "give each line an id of its own")
    return asked


def _local(path: Path, hospital: str | None) -> Path:
    """The folder of a hospital's own adapter."""
    there = sorted(one.parent.parent for one in path.glob(f"joining/*/local/{WEIGHTS}"))
    found = [one / "local" for one in there if hospital in (None, one.name)]
    if not found:
        known = f"there are {', '.join(one.name for one in there)}" if there else "train them"
        raise RunNotFoundError(
            f"{path} has no local adapter" + (f" of '{hospital}'" if hospital else ""),
            f"{known} with 'fedmed evaluate {path} --joining', or leave it out with --systems base,federated",
        )
    return found[0]


def _answers(
    path: Path, config: FedMedConfig, questions: Sequence[str], systems: Sequence[str], local: Path | None
) -> dict[str, list[Answer]]:
    with track("loading the model"):
        base, tokenizer = load_model_and_tokenizer(config=config.model)
        model = attach_adapter(base, adapter_folder(path, None))
    assistant = MedicalAssistant(model, tokenizer, config=config, run=None, model_name=config.model.name)
    answers: dict[str, list[Answer]] = {}
    with track("answering", len(systems) * len(questions)) as advance:
        for name in (one for one in ("federated", "local", "base") if one in systems):
            if name == "local" and local is not None:
                set_adapter_state(model, load_adapter(local), any_rank=True)
            if name == "base":
                with model.disable_adapter():
                    answers[name] = assistant.ask_many(questions)
            else:
                answers[name] = assistant.ask_many(questions)
            advance(len(questions))
    return answers


def sheet_page(sheet: dict[str, Any]) -> str:
    """The page: one file, no request, no script but its own, whose digest its policy names."""
    files = resources.files("fedmed.pipeline")
    script = files.joinpath("rating_sheet.js").read_text(encoding="utf-8")
    style = resources.files("fedmed.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    data = json.dumps(sheet, ensure_ascii=False).replace("<", "\\u003c")
    parts = {
        "@SCRIPT_SHA256@": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "@STYLE@": style,
        "@SCRIPT@": script,
        "@SHORT_ID@": sheet["id"][:12],
        "@DATA@": data,  # last: what a model wrote is not looked through
    }
    page = files.joinpath("rating_sheet.html").read_text(encoding="utf-8")
    for mark, text in parts.items():
        page = page.replace(mark, text)
    return page
