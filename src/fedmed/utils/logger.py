"""Logging under the one name ``fedmed``: notes go to stderr, other libraries speak up only when something is wrong."""

from __future__ import annotations

import logging
import os

from fedmed.utils.console import err

ROOT = "fedmed"
_CHATTY = (
    "transformers",
    "datasets",
    "peft",
    "accelerate",
    "huggingface_hub",
    "filelock",
    "urllib3",
    "httpx",
    "fsspec",
)


class _ConsoleHandler(logging.Handler):
    """Prints above a running progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            if record.levelno < logging.INFO or not record.name.startswith(ROOT):
                prefix += f"[{record.name}] "
            err.print(prefix + self.format(record), markup=False, highlight=False)
        except Exception:  # noqa: BLE001  (logging's own rule: a failing handler reports, and never stops the program)
            self.handleError(record)


def get_logger(name: str) -> logging.Logger:
    """The logger of one module; pass ``__name__``."""
    return logging.getLogger(name if name == ROOT or name.startswith(f"{ROOT}.") else f"{ROOT}.{name}")


def setup_logging(debug: bool = False) -> None:
    """Send FED-MED's notes to stderr; call once, at the start of a command, before heavy imports.

    Args:
        debug: also show debug lines, and let the other libraries say all they have to say. Otherwise their progress
            bars and advice stay off, their warnings are kept to errors, and errors are always shown.
    """
    handler = _ConsoleHandler()
    logger = logging.getLogger(ROOT)
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    if debug:
        return
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    # Read by the libraries when they are first imported; what a user has set stays.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a second bar under ours would garble both
