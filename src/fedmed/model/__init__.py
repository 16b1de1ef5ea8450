"""The language model: load it, give it a LoRA adapter, move adapters in and out, write answers."""
