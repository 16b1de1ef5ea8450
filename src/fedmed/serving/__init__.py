"""Guarded answers over HTTP, in OpenAI's protocol. safety -> HERE -> cli. Extra: ``serve``."""
