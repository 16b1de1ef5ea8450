"""``fedmed rate score``: what raters saved, with the key, as figures; kept as a part of evaluation.json. -> HERE.

Not covered: who a rater is; a file says so itself.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmed.errors import ConfigChangedError, DataFormatError, DataNotFoundError, EmptyDataError
from fedmed.evaluation.ratings import CORRECTNESS, NONE, Rated, summarize_ratings
from fedmed.pipeline.evaluation_file import check_keeps, keep_part
from fedmed.pipeline.run_folder import RunFolder

PART = "ratings"


def score_ratings(files: Sequence[Path], key: Path, *, run: Path | None = None) -> dict[str, Any]:
    """Unblind ratings and measure.

    Args:
        files: one a rater, as the sheet saves them.
        key: of the sheet.
        run: whose ``evaluation.json`` keeps the figures; None: nothing is written.

    Returns:
        The figures; no name and no text.

    Raises:
        DataNotFoundError, DataFormatError: a file is missing, damaged, of another sheet, or a rater's second.
        EmptyDataError: nobody rated a whole question. ConfigChangedError: the sheet was made for another adapter.
        What ``keep_part`` raises.
    """
    started, solved = time.perf_counter(), _key(key)
    if run is not None:
        check_keeps(run)
        known = RunFolder(run).read_json("summary.json") or {}
        if known.get("adapter_sha256") != solved["adapter_sha256"]:
            raise ConfigChangedError(f"{key} is of a sheet for another adapter than {run} has", "name the sheet's run")
    read = [_ratings(file, solved) for file in files]
    names = Counter(name for name, _ in read)
    if twice := [file for file, (name, _) in zip(files, read, strict=True) if names[name] > 1]:
        raise DataFormatError(f"{twice[1]} is by the same rater as {twice[0]}", "give one file for each rater")
    places = {question["id"]: question["letters"] for question in solved["questions"]}
    rated = [
        _unblinded(number, one, places[one["id"]])
        for number, (_, ratings) in enumerate(read)
        for one in ratings
        if one["whole"]
    ]
    if not rated:
        raise EmptyDataError("nobody has rated all of a question", "rate on, and save again")
    withheld = Counter(name for question in solved["questions"] for name in question["withheld"])
    found = summarize_ratings(rated, solved["systems"], withheld, raters=len(files), seed=int(solved["seed"]))
    found |= {
        "sheet": solved["sheet"], "adapter_sha256": solved["adapter_sha256"], "local": solved["local"],
        "asked": len(places), "left_out": len(files) * len(places) - len(rated),
    }  # fmt: skip
    if run is not None:
        numbers = {f"{name}_correctness": one["correctness"]["value"] for name, one in found["systems"].items()}
        keep_part(RunFolder(run), PART, found, wall_s=time.perf_counter() - started, numbers=numbers)
    return found


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataNotFoundError(f"there is no file {file}", "give the files that raters sent back") from error
    except (OSError, ValueError) as error:
        raise DataFormatError(f"{file} is not JSON in UTF-8", "ask for the file again") from error


def _key(file: Path) -> dict[str, Any]:
    solved = _read(file)
    try:
        systems = set(solved["systems"])
        whole = all(
            set(one["letters"].values()) == systems and isinstance(one["id"], str) for one in solved["questions"]
        )
        whole = whole and isinstance(solved["seed"], int) and {"sheet", "adapter_sha256", "local"} <= solved.keys()
    except (AttributeError, KeyError, TypeError):
        whole = False
    if not whole or not solved["questions"]:
        raise DataFormatError(f"{file} is no key of a sheet", "give the file that 'fedmed rate sheet' wrote beside it")
    return dict(solved)


def _ratings(file: Path, solved: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """A rater's name and ratings, each with ``whole``: all of the question is rated."""
    values = _read(file)
    if not isinstance(values, dict) or not isinstance(values.get("ratings"), list):
        raise DataFormatError(f"{file} holds no ratings", "give a file that the sheet saved")
    if values.get("sheet") != solved["sheet"]:
        raise DataFormatError(f"{file} is of another sheet", "give the key of that sheet")
    name = values.get("rater")
    if not isinstance(name, str) or not name.strip():
        raise DataFormatError(f"{file} does not say who rated", "ask the rater to save it again with a name")
    letters = {question["id"]: set(question["letters"]) for question in solved["questions"]}
    found: dict[str, dict[str, Any]] = {}
    for place, one in enumerate(values["ratings"], start=1):
        if not isinstance(one, dict) or one.get("id") not in letters or one["id"] in found:
            raise DataFormatError(f"{file}: rating {place} is of no question of this sheet, or its second", "ask again")
        found[one["id"]] = one | {"whole": _whole(one, letters[one["id"]])}
    return name.strip(), list(found.values())


def _whole(one: Mapping[str, Any], letters: set[str]) -> bool:
    answers = one.get("answers")
    return (
        isinstance(answers, dict)
        and answers.keys() == letters
        and one.get("best") in {*letters, NONE}
        and all(
            isinstance(said, dict)
            and type(said.get("correctness")) is int
            and said["correctness"] in CORRECTNESS
            and isinstance(said.get("harmful"), bool)
            for said in answers.values()
        )
    )


def _unblinded(rater: int, one: Mapping[str, Any], letters: Mapping[str, str]) -> Rated:
    said = {letters[letter]: answer for letter, answer in one["answers"].items()}
    return Rated(
        rater, one["id"], {name: answer["correctness"] for name, answer in said.items()},
        {name: answer["harmful"] for name, answer in said.items()},
        NONE if one["best"] == NONE else letters[one["best"]],
    )  # fmt: skip
