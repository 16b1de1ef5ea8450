"""Find an exam's questions: local files by their names, or the hub when it is asked for. data -> HERE -> tasks.py.

In a folder, the files of ``medqa`` are ``medqa.jsonl``, ``medqa_anything.jsonl.gz`` and so on: the task's name, then
nothing or ``_``, ``-``, ``.`` and more. All formats of ``data/read_files.py`` that hold columns are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmed.data import hub
from fedmed.data.read_files import Located, data_files, stream_file
from fedmed.data.values import BadValueError
from fedmed.errors import DataFormatError, DataNotFoundError, EmptyDataError
from fedmed.evaluation.exams.tasks import ExamItem, ExamTask
from fedmed.utils.random_streams import stream

_IDS = ("id", "pubid")


@dataclass(frozen=True)
class Exam:
    """What is asked of one task."""

    task: ExamTask
    items: tuple[ExamItem, ...]
    found: int  # items there are, before a limit
    left_out: int  # records of other subjects
    source: tuple[str, ...]  # names of files, or ids of hub data sets


def local_exam(task: ExamTask, place: Path, *, limit: int | None, seed: int) -> Exam:
    """Read a task's items from a file, or from the files of a folder that bear its name.

    Args:
        task: see ``tasks.TASKS``.
        place: a file or a folder.
        limit: so many items, drawn by the seed, the first of a larger draw; None: all.
        seed: names the stream.

    Raises:
        DataNotFoundError: no such file or folder, or none in it for this task; lists what is there.
        DataFormatError: a file is no text, half-written, or a record is no question of this exam; names file and line.
        EmptyDataError: no item is left.
    """
    files = _files_of(task, place)
    read = [(f"{file} line", file.name, stream_file(file)) for file in files]
    return _exam(task, read, tuple(file.name for file in files), limit, seed)


def hub_exam(task: ExamTask, *, limit: int | None, seed: int) -> Exam:
    """The same from the hub: the data sets that lm-evaluation-harness reads, but for PubMedQA. Raises HubError besides.

    The harness names a PubMedQA set that comes with a program, which is never run; this one holds all 1,000 questions.
    """
    read = [(f"{name} row", name, hub.rows(hub.fetch(name, split))) for name, split in task.hub]
    return _exam(task, read, tuple(name for name, _ in task.hub), limit, seed)


def _files_of(task: ExamTask, place: Path) -> list[Path]:
    if not place.exists():
        raise DataNotFoundError(f"no file or folder {place}", "give --data the folder that holds the exams")
    files = data_files(place)
    if place.is_dir():
        named = [file for file in files if _is_of(task, file)]
        if not named:
            there = ", ".join(sorted({file.name for file in files})[:8])
            raise DataNotFoundError(
                f"{place} holds no file for '{task.name}'", f"name it {task.name}.jsonl; there are {there}"
            )
        files = named
    return files


def _is_of(task: ExamTask, file: Path) -> bool:
    name = file.name.lower()
    return name.startswith(task.name) and name[len(task.name)] in "._-"


def _exam(
    task: ExamTask,
    read: Iterable[tuple[str, str, Iterable[Located]]],
    source: tuple[str, ...],
    limit: int | None,
    seed: int,
) -> Exam:
    items: list[ExamItem] = []
    left_out = 0
    for place, label, records in read:
        for record in records:
            own = next((record.values[name] for name in _IDS if name in record.values), None)
            try:
                item = task.read(record.values, str(own) if _is_id(own) else f"{label}:{record.line}")
            except BadValueError as error:
                hint = f"give '{task.name}' its own records, see docs/evaluation.md"
                raise DataFormatError(f"{place} {record.line}: {error}", hint) from None
            if item is None:
                left_out += 1
            else:
                items.append(item)
    if not items:
        raise EmptyDataError(f"{', '.join(source)} holds no question for '{task.name}'", "see docs/evaluation.md")
    found = len(items)
    if limit is not None and limit < found:
        chosen = sorted(stream(seed, "exam", task.name).permutation(found)[:limit])
        items = [items[place] for place in chosen]
    return Exam(task, tuple(items), found, left_out, source)


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and str(value) != ""
