"""The federated methods, by the name used in ``federated.algorithm``. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedmed.config.schema import FederatedSection
from fedmed.federated.algorithms.fedavg import FedAvg
from fedmed.federated.algorithms.fedprox import FedProx
from fedmed.types import Algorithm

ALGORITHMS: Mapping[str, Callable[[FederatedSection], Algorithm]] = {
    "fedavg": FedAvg.from_config,
    "fedprox": FedProx.from_config,
}


def get_algorithm(config: FederatedSection) -> Algorithm:
    """The algorithm that ``config.algorithm`` names, with its settings; the schema admits no other name."""
    return ALGORITHMS[config.algorithm](config)
