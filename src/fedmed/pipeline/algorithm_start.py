"""The adapter that a method begins with: LoRA's own, or for Fed-SB the factors it will keep. pipeline -> HERE ->
algorithm.start."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fedmed.config.schema import FedMedConfig
from fedmed.pipeline.public_records import records_for_factors
from fedmed.pipeline.scoring import encode
from fedmed.types import AdapterState
from fedmed.utils.console import track


def first_adapter(
    config: FedMedConfig, model: Any, tokenizer: Any, lora_start: AdapterState, private: Collection[str]
) -> AdapterState:
    """What ``algorithm.start`` is given.

    Args:
        config: settings.
        model, tokenizer: the base with its adapter.
        lora_start: the adapter as LoRA begins it.
        private: groups of all records of the hospitals, training and test; public records are of none of them. Under
            privacy noise they are drawn from all of the ontology, as what is left out would tell who holds what.

    Raises:
        EmptyDataError: Fed-SB wants public records and every record of the ontology is at a hospital.
    """
    if config.federated.algorithm != "fedsb":
        return lora_start
    from fedmed.training.fedsb_factors import from_gradient, from_weights

    if config.federated.fedsb_factors == "weights":
        return from_weights(model, config.model.lora.r)
    rows = encode(tokenizer, records_for_factors(config, private), config)
    with track("drawing Fed-SB's factors from public records"):
        return from_gradient(model, rows, config.model.lora.r, config.training)
