"""The rooms import only what lies before them in the flow, and the check that says so can fail."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from fedmed.evaluation import written
from fedmed.safety import signals

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]


def lint_imports(folder: Path, config: Path) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from importlinter.cli import lint_imports_command as c; c()"
    )
    return subprocess.run(
        [sys.executable, "-c", program, str(folder), "--config", str(config), "--no-cache"],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def make_project(
    folder: Path, *, cli: str = "", data: str = "", safety: str = "", beside: str = ""
) -> tuple[Path, Path]:
    """A package with three of the rooms and FED-MED's own contracts about them."""
    for room, text in {"": "", "cli": cli, "data": data, "safety": safety, "model": ""}.items():
        (folder / "fedmed_small" / room).mkdir(parents=True, exist_ok=True)
        (folder / "fedmed_small" / room / "__init__.py").write_text(text)
    (folder / "fedmed_small" / "model" / "inference.py").write_text("")
    (folder / "fedmed_small" / "safety" / "beside.py").write_text(beside)
    config = folder / "contracts.toml"
    config.write_text(
        """
[tool.importlinter]
root_package = "fedmed_small"
include_external_packages = true
[[tool.importlinter.contracts]]
name = "layers"
type = "layers"
layers = ["fedmed_small.cli", "fedmed_small.safety", "fedmed_small.data | fedmed_small.model"]
[[tool.importlinter.contracts]]
name = "no torch"
type = "forbidden"
source_modules = ["fedmed_small.data", "fedmed_small.cli"]
forbidden_modules = ["torch"]
allow_indirect_imports = true
[[tool.importlinter.contracts]]
name = "only safety may generate"
type = "forbidden"
source_modules = ["fedmed_small.cli", "fedmed_small.safety"]
forbidden_modules = ["fedmed_small.model.inference"]
ignore_imports = ["fedmed_small.safety -> fedmed_small.model.inference"]
unmatched_ignore_imports_alerting = "none"
"""
    )
    return folder, config


def test_every_room_of_fedmed_imports_only_rooms_before_it() -> None:
    done = lint_imports(ROOT, ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_a_project_that_keeps_the_rules_passes(tmp_path: Path) -> None:
    done = lint_imports(
        *make_project(tmp_path, cli="import fedmed_small.safety", safety="import fedmed_small.model.inference")
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("room", "text", "broken"),
    [
        ("data", "import fedmed_small.cli", "layers"),
        ("data", "from fedmed_small import model", "layers"),
        ("data", "def late():\n    import torch\n", "no torch"),
        ("cli", "def late():\n    from fedmed_small.model import inference\n", "only safety may generate"),
        ("beside", "from fedmed_small.model import inference", "only safety may generate"),
    ],
)
def test_a_wrong_import_is_caught_also_inside_a_function(tmp_path: Path, room: str, text: str, broken: str) -> None:
    done = lint_imports(*make_project(tmp_path, **{room: text}))
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{broken} BROKEN" in done.stdout


@pytest.mark.parametrize("module", [signals, written])
def test_what_may_generate_without_the_rails_gives_no_words(module) -> None:
    """The contract lets these two reach ``generate``: each of their functions gives numbers, or settings."""
    own = [
        function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    ]
    given = {inspect.signature(function).return_annotation for function in own}
    assert given <= {"list[dict[str, float]]", "float", "float | None", "ModelSection"}
    assert len(given) > 0
