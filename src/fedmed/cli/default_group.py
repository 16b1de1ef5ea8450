"""A command group with a command that is meant when none is named: ``fedmed release RUN``."""

from __future__ import annotations

from typing import Any, ClassVar

from typer.core import TyperGroup


class DefaultGroup(TyperGroup):
    """``GROUP WORD …`` is ``GROUP <default> WORD …`` unless the word is one of its commands or an option of its own."""

    default: ClassVar[str] = "make"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0] not in self.commands and args[0] not in own:
            args = [self.default, *args]
        return list(super().parse_args(ctx, args))
