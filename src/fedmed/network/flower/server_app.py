"""Flower's server app: a relay between the coordinator's process and the SuperLink. line -> HERE -> SuperLink.

The coordinator runs in a process of its own, so that it outlives this one and Flower's choice of when to start it. All
this app does is push what the coordinator sends, pull what hospitals answer, and tell which nodes are there; it ends
when the coordinator's socket closes.

    from the coordinator   {kind: send, ticket, node, ttl} + order;  {kind: forget, ticket}
    to the coordinator     {kind: nodes, nodes};  {kind: reply, ticket, node} + reply;  {kind: lost, ticket, why}
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedmed.network.flower.client_app import ORDER, RECORD, REPLY, TROUBLE
from fedmed.network.flower.frames import SOCKET, Wire

_PULL_EVERY = 0.5  # seconds at first; Flower's own strategies pull every 3
_PULL_AT_LEAST_EVERY = 3.0  # seconds, where all that is under way has been so for minutes
_PULL_SHARE = 0.02  # of the time since the last order was sent: what waiting between two looks may add to a training
_NODES_EVERY = 5.0

app: Any = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Relay until the coordinator hangs up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.connect(os.environ[SOCKET])
        relay = _Relay(grid, Wire(line))
        try:
            while True:
                relay.turn()
        except ConnectionError:
            print("the coordinator hung up", flush=True)  # noqa: T201  (Flower keeps it as this run's log)


def pull_interval(waited: float) -> float:
    """Seconds between two looks for answers, after so many seconds since the last order: each look costs the server."""
    return min(max(_PULL_EVERY, _PULL_SHARE * waited), _PULL_AT_LEAST_EVERY)


class _Relay:
    def __init__(self, grid: Grid, wire: Wire) -> None:
        self._grid, self._wire = grid, wire
        self._tickets: dict[str, int] = {}  # Flower's message id -> ticket
        self._pulled = self._looked = self._sent = 0.0

    def turn(self) -> None:
        for header, body in self._wire.receive(0.25):
            if header["kind"] == "send":
                self._send(header, body)
            else:
                self._tickets = {key: ticket for key, ticket in self._tickets.items() if ticket != header["ticket"]}
        now = time.monotonic()
        if now - self._looked >= _NODES_EVERY:
            self._looked = now
            self._wire.send({"kind": "nodes", "nodes": [str(node) for node in self._grid.get_node_ids()]})
        if self._tickets and now - self._pulled >= pull_interval(now - self._sent):
            self._pulled = now
            for message in self._grid.pull_messages(list(self._tickets)):
                self._hand_over(message)

    def _send(self, header: dict[str, Any], body: bytes) -> None:
        content = RecordDict({RECORD: ConfigRecord({ORDER: body})})
        message = Message(content, dst_node_id=int(header["node"]), message_type="query", ttl=float(header["ttl"]))
        pushed = next(iter(self._grid.push_messages([message])), None)
        if pushed:
            self._tickets[pushed], self._sent = header["ticket"], time.monotonic()
        else:
            self._lost(header["ticket"], "Flower did not take it: the node has gone, or the message is too long")

    def _hand_over(self, message: Message) -> None:
        ticket = self._tickets.pop(message.metadata.reply_to_message_id, None)
        if ticket is None:
            return
        if message.has_error():
            self._lost(ticket, str(message.error.reason))
            return
        record = message.content.get(RECORD)
        reply = record.get(REPLY) if record is not None else None
        if isinstance(reply, bytes):
            self._wire.send({"kind": "reply", "ticket": ticket, "node": str(message.metadata.src_node_id)}, reply)
        else:
            why = record.get(TROUBLE) if record is not None else None
            self._lost(ticket, str(why or "the relay's answer holds no reply"))

    def _lost(self, ticket: int, why: str) -> None:
        self._wire.send({"kind": "lost", "ticket": ticket, "why": why[:500]})
