"""Answers that have passed the rails. assistant.py is the only way to the model; guardrails.py needs no torch."""
