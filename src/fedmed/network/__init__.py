"""The real federation: processes on machines of their own, over a network that fails. pipeline -> HERE -> cli.

A coordinator that nobody has to trust, hospitals that only dial out and may say no. `flower` alone knows the engine.
"""
