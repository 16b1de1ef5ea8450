"""Several of Flower's own commands in one process, as starting Flower takes longer than any of them. launch -> HERE.

Standard input: a JSON list of argument lists. Standard output: the JSON object of each command, one after the other.
Not covered: going on after one that failed; those after it are not tried.
"""

from __future__ import annotations

import json
import sys


def main() -> int:
    """Run the commands in turn; 1 after the first that failed."""
    from flwr.cli.app import app

    for arguments in json.load(sys.stdin):
        try:
            code = app([*arguments, "--format", "json"], standalone_mode=False)
        except BaseException as error:  # noqa: BLE001  (a command line ends in many ways)
            print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
            return 1
        if code:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
