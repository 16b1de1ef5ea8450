"""FED-MED: hospitals fine-tune one language model together with LoRA; every hospital keeps its records.

data -> split -> encode -> local training (base frozen, LoRA moves) -> what the algorithm sends -> fixed-point sum
-> checkpoint -> evaluation; question -> input rail -> generate -> confidence -> output rail -> answer.
ARCHITECTURE.md has the picture.
"""

__version__ = "0.1.0"
