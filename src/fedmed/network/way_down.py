"""How the global state goes to each hospital: what changed, to one that holds the last one; else all. runner -> HERE.

The runner's ``Downlink`` makes one update a round, on the state that up-to-date hospitals hold. Who holds it is what
hospitals say themselves, by its digest. A worker that was restarted holds nothing, refuses the update and gets all.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from fedmed.federated.links import Downlink, Update
from fedmed.network.global_state import pack_update, pack_whole, state_digest
from fedmed.types import AdapterState

Form: TypeAlias = Literal["whole", "update"]


class WayDown(Downlink):
    """A ``Downlink`` that remembers the update of the round at hand."""

    _update: Update | None = None
    _known: AdapterState | None = None
    _known_digest: str | None = None

    def update(self, state: AdapterState, held: AdapterState | None, round: int, algorithm: str) -> Update:
        """See ``Downlink.update``."""
        made = super().update(state, held, round, algorithm)
        self._update, self._known = made, held
        self._known_digest = None if held is None else state_digest(held)
        return made

    def form_for(self, state: AdapterState, holds: str | None) -> Form:
        """How ``state`` goes to a hospital that holds the state with this digest."""
        fits = self._made_for(state) and self._known_digest is not None and holds == self._known_digest
        return "update" if fits else "whole"

    def pack(self, state: AdapterState, form: Form, *, round: int, algorithm: str) -> tuple[dict[str, Any], bytes]:
        """The order's ``state`` and body, in a form that ``form_for`` gave, perhaps before a restart."""
        if form == "update" and self._made_for(state) and self._update is not None and self._known is not None:
            return pack_update(self._update, self._known)
        return pack_whole(state, round=round, algorithm=algorithm)

    def _made_for(self, state: AdapterState) -> bool:
        return self._update is not None and self._update.now is state
