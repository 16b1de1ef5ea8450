"""Local training at one hospital: the base stays frozen, LoRA moves. data, model -> HERE -> federated."""
