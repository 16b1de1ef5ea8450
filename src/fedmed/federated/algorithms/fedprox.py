"""FedProx: FedAvg whose local training is held near the global adapter, for hospitals whose records differ.

Source: Li et al. 2020, arXiv:1812.06127. The local loss gains ``mu/2 * ||w - start||^2``; the server half is FedAvg's.

Not covered: the paper's uneven amounts of local work with a measured inexactness; every hospital does the work asked.
"""

from __future__ import annotations

from dataclasses import replace

from fedmed.config.schema import FederatedSection
from fedmed.federated.algorithms.fedavg import FedAvg
from fedmed.types import AdapterState, HospitalState, LocalJob, LocalPlan


class FedProx(FedAvg):
    """FedAvg with a proximal term.

    Args:
        mu: strength of the pull towards the global adapter, >= 0; 0 is FedAvg.
        robust, tolerate: as in FedAvg.
    """

    name: str = "fedprox"

    def __init__(self, mu: float, *, robust: str | None = None, tolerate: int = 1) -> None:
        super().__init__(robust=robust, tolerate=tolerate)
        self.mu = mu

    @classmethod
    def from_config(cls, config: FederatedSection) -> FedProx:
        """Also reads ``federated.fedprox_mu``."""
        return cls(config.fedprox_mu, robust=config.robust, tolerate=config.tolerate)

    def begin(self, global_state: AdapterState, hospital_state: HospitalState, plan: LocalPlan) -> LocalJob:
        """FedAvg's job with the proximal term set."""
        return replace(super().begin(global_state, hospital_state, plan), proximal_mu=self.mu)
