"""Flower's client app: an untrusted relay between coordinator and this hospital's worker. SuperNode -> HERE -> worker.

Flower starts a process for every message and ends it after the reply; what must last is in the worker. The bytes are
not read here: the worker checks who signed an order, the coordinator who signed a reply. This process holds no key and
reads no record, and may run as another user than the worker.

Not covered: anything that a hostile coordinator ships in place of this file. It gets no further than the same socket.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedmed.errors import FedMedError
from fedmed.network.socket_line import ask

RECORD, ORDER, REPLY, TROUBLE = "fedmed", "order", "reply", "trouble"

app: Any = ClientApp()


@app.query()  # type: ignore[untyped-decorator]
def relay(message: Message, context: Context) -> Message:
    """Carry one order in and its reply out; without a reply, say why in one line that names no path."""
    try:
        left = message.metadata.created_at + message.metadata.ttl - time.time()
        raw = message.content.config_records[RECORD][ORDER]
        if not isinstance(raw, bytes):
            raise TypeError("an order is bytes")
        answer = ConfigRecord({REPLY: ask(Path(str(context.node_config["socket"])), raw, left)})
    except (FedMedError, KeyError, TypeError) as error:
        answer = ConfigRecord({TROUBLE: f"the hospital's worker gave no answer ({type(error).__name__})"})
    return Message(RecordDict({RECORD: answer}), reply_to=message)
