"""FedAvgM and FedAdam: the server treats the mean change as a gradient and takes a step of its own.

Sources: FedAvgM, Hsu et al. 2019, arXiv:1909.06335; FedAdam, Reddi et al. 2021, arXiv:2003.00295 (Algorithm 2,
without bias correction, second moments from tau squared). Momentum lies at the server, is saved in every checkpoint,
and hospitals never see it.

Not covered: FedYogi and FedAdagrad; a schedule of the server's rate.
"""

from __future__ import annotations

import numpy as np

from fedmed.config.schema import FederatedSection
from fedmed.federated.algorithms.fedavg import FedAvg
from fedmed.federated.means import Mean
from fedmed.types import ServerState

_FIRST, _SECOND = "momentum.", "variance."


class FedAvgM(FedAvg):
    """FedAvg with momentum at the server: ``v <- beta v + mean; w <- w + rate v``.

    Args:
        rate: the server's learning rate, > 0.
        beta: share of the old momentum that stays, [0, 1); 0 with rate 1 is FedAvg.
        robust, tolerate: as in FedAvg.
    """

    name: str = "fedavgm"

    def __init__(self, rate: float, beta: float, *, robust: str | None = None, tolerate: int = 1) -> None:
        super().__init__(robust=robust, tolerate=tolerate)
        self.rate, self.beta = rate, beta

    @classmethod
    def from_config(cls, config: FederatedSection) -> FedAvgM:
        """Reads ``federated.server_learning_rate`` (unset: 1) and ``federated.server_momentum``."""
        rate = 1.0 if config.server_learning_rate is None else config.server_learning_rate
        return cls(rate, config.server_momentum, robust=config.robust, tolerate=config.tolerate)

    def step(self, mean: Mean, server_state: ServerState) -> tuple[Mean, ServerState]:
        """One step with momentum."""
        kept = {_FIRST + key: self.beta * server_state.get(_FIRST + key, 0.0) + array for key, array in mean.items()}
        return {key: self.rate * kept[_FIRST + key] for key in mean}, kept


class FedAdam(FedAvg):
    """Adam at the server.

    Args:
        rate: the server's learning rate, > 0: about how far a coordinate moves in a round.
        beta_1, beta_2: shares of the old moments that stay.
        tau: added to the root of the second moment; larger is less adaptive.
        robust, tolerate: as in FedAvg.
    """

    name: str = "fedadam"

    def __init__(
        self,
        rate: float,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        tau: float = 1e-3,
        *,
        robust: str | None = None,
        tolerate: int = 1,
    ) -> None:
        super().__init__(robust=robust, tolerate=tolerate)
        self.rate, self.beta_1, self.beta_2, self.tau = rate, beta_1, beta_2, tau

    @classmethod
    def from_config(cls, config: FederatedSection) -> FedAdam:
        """Reads ``federated.server_learning_rate`` (unset: 0.001) and ``federated.server_momentum``."""
        rate = 1e-3 if config.server_learning_rate is None else config.server_learning_rate
        return cls(rate, config.server_momentum, robust=config.robust, tolerate=config.tolerate)

    def step(self, mean: Mean, server_state: ServerState) -> tuple[Mean, ServerState]:
        """One step of Adam."""
        move, kept = {}, {}
        for key, array in mean.items():
            first = self.beta_1 * server_state.get(_FIRST + key, 0.0) + (1.0 - self.beta_1) * array
            second = self.beta_2 * server_state.get(_SECOND + key, self.tau**2) + (1.0 - self.beta_2) * np.square(array)
            kept[_FIRST + key], kept[_SECOND + key] = first, second
            move[key] = self.rate * first / (np.sqrt(second) + self.tau)
        return move, kept
