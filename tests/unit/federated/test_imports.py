"""A coordinator installs without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit


def test_importing_the_federation_loads_no_torch():
    code = (
        "import sys, fedmed.federated.client, fedmed.federated.checkpoint, fedmed.federated.simulation\n"
        "print([name for name in ('torch', 'transformers', 'peft', 'datasets') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_settings_and_the_registry_name_the_same_algorithms():
    from typing import get_args

    from fedmed.config.schema import FederatedSection
    from fedmed.federated.algorithms import ALGORITHMS

    names = get_args(FederatedSection.model_fields["algorithm"].annotation)
    assert set(names) == set(ALGORITHMS)
    assert {FederatedSection(algorithm=name).algorithm for name in names} == {
        ALGORITHMS[name](FederatedSection()).name for name in names
    }
