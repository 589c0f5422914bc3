"""Command groups with a default verb: `aoi synth IMAGES` is `aoi synth generate IMAGES`."""

from __future__ import annotations

import difflib
from typing import Any

from typer.core import TyperGroup


class DefaultVerbGroup(TyperGroup):
    """A group that runs `default_verb` when the first word is neither a verb nor the help option."""

    default_verb = ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default verb in front where no verb was given, unless the word looks like a misspelt verb."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h") and not self._misspelt(args[0]):
            args = [self.default_verb, *args]
        return super().parse_args(ctx, args)

    def _misspelt(self, word: str) -> bool:
        return word.isalpha() and bool(difflib.get_close_matches(word, list(self.commands), n=1, cutoff=0.75))


def group_with_default(verb: str) -> type[DefaultVerbGroup]:
    """A group class whose default verb is `verb`."""
    return type("Group", (DefaultVerbGroup,), {"default_verb": verb})
