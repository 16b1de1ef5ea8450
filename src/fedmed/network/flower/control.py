"""Several of Flower's own commands in one process, as starting Flower takes longer than any of them. launch -> HERE.

Standard input: a JSON list of argument lists. Standard output: a JSON list of what each command printed as JSON.
Not covered: going on after one that failed; those after it are not tried.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys


def main() -> int:
    """Run the commands in turn; 1 after the first that failed."""
    from flwr.cli.app import app

    told: list[object] = []
    failed = False
    for arguments in json.load(sys.stdin):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            try:
                app([*arguments, "--format", "json"], standalone_mode=False)
            except BaseException as error:  # noqa: BLE001  (a command line ends in many ways)
                print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        text = said.getvalue()
        try:
            found = json.loads(text[text.index("{") :])
        except ValueError:
            found = {"success": False, "error-message": text.strip()[-300:]}
        told.append(found)
        if not found.get("success"):
            failed = True
            break
    sys.stdout.write(json.dumps(told))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
