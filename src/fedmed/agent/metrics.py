"""The numbers of a run while it goes: one JSON line a round and hospital, and TensorBoard. federated -> HERE -> people.

``logs/metrics/<run>.jsonl`` is what pandas reads in one line (``pandas.read_json(path, lines=True)``);
``logs/<run>/`` is what TensorBoard reads. Only what a hospital shares is ever handed in; a withheld value is None.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from fedmed.errors import ConfigError, DataFormatError, NonFiniteLossError
from fedmed.utils.extras import require
from fedmed.utils.files import append_line, clear_write_errors, write_atomic


class MetricsTracker:
    """Write a run's metrics so that a crash at any moment loses at most the line being written.

    Args:
        run_name: names the file and the TensorBoard folder; one plain name, no path.
        logs_root: the ``logs`` folder; created when the first line is written.

    Raises:
        ConfigError: ``run_name`` is a path or would collide with the folder ``metrics``.

    A name that was used before is appended to; ``truncate_after(0)`` starts it afresh.
    """

    def __init__(self, run_name: str, logs_root: Path = Path("logs")) -> None:
        if run_name in ("", ".", "..", "metrics") or Path(run_name).name != run_name:
            raise ConfigError([f"run name '{run_name}' cannot name a log folder"], "use one plain name such as run-1")
        self.path = logs_root / "metrics" / f"{run_name}.jsonl"
        self.tensorboard_folder = logs_root / run_name
        self._purge_from: int | None = None
        self._writer: Any = None
        self._drop_half_written_line()

    def log_round(self, round: int, hospital: str, **values: float | int | str | None) -> None:
        """Append one line ``{"round", "hospital", **values}`` and put its numbers on TensorBoard as ``name/hospital``.

        Args:
            round: 1-based; 0 stands for "before any training".
            hospital: whose numbers they are.
            values: JSON scalars; None means "not shared" and reaches no TensorBoard curve.

        Raises:
            NonFiniteLossError: a value is NaN or infinite; nothing is written then.
            OutputNotWritableError, DiskFullError: the folder cannot take the line.
            MissingExtraError: TensorBoard is absent.
        """
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise NonFiniteLossError(
                    f"{name} of {hospital} in round {round} is not a finite number", "lower training.learning_rate"
                )
        line = json.dumps({"round": round, "hospital": hospital, **values}, ensure_ascii=False, allow_nan=False)
        append_line(self.path, line)
        writer = self._tensorboard()
        for name, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                writer.add_scalar(f"{name}/{hospital}", value, round)

    def truncate_after(self, round: int) -> int:
        """Drop the lines of later rounds, for a run that goes on from the checkpoint of ``round``.

        Returns:
            How many lines were dropped.

        Raises:
            DataFormatError: a whole line is no metrics line; names the file and the line.
        """
        self._purge_from = round + 1
        if not self.path.exists():
            return 0
        kept: list[str] = []
        lines = self.path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                keep = json.loads(line)["round"] <= round
            except (ValueError, KeyError, TypeError) as error:
                raise DataFormatError(
                    f"{self.path} line {number} is no metrics line", "move the file away and resume again"
                ) from error
            if keep:
                kept.append(line)
        write_atomic(self.path, "".join(line + "\n" for line in kept))
        return len(lines) - len(kept)

    def logged(self) -> set[tuple[int, str]]:
        """(round, hospital) of every line there is."""
        if not self.path.exists():
            return set()
        lines = map(json.loads, self.path.read_text(encoding="utf-8").splitlines())
        return {(line["round"], line["hospital"]) for line in lines}

    def close(self) -> None:
        """Hand what TensorBoard still buffers to the disk; the tracker may be used again after it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> MetricsTracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drop_half_written_line(self) -> None:
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with clear_write_errors(self.path):
                os.truncate(self.path, whole)

    def _tensorboard(self) -> Any:
        if self._writer is None:
            require("tensorboard", "train")
            writer_class = require("torch.utils.tensorboard", "train").SummaryWriter
            with clear_write_errors(self.tensorboard_folder):
                # purge_step hides what an interrupted run had drawn past its last checkpoint.
                self._writer = writer_class(log_dir=str(self.tensorboard_folder), purge_step=self._purge_from)
        return self._writer
