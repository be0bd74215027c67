"""A group of commands whose name alone stands for one of them."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class RunByDefault(TyperGroup):
    """`group ARGS` is `group run ARGS`, unless ARGS begin with the name of a command or ask for help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put "run" in front where no command is named."""
        asks_for_help = not args or args[0] in ctx.help_option_names
        if not asks_for_help and args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)
