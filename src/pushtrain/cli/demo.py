"""`pushtrain demo`: the whole line on this machine, to watch."""

from typing import Annotated

from cyclopts import Parameter

from pushtrain.cli.options import Json
from pushtrain.cli.screen import render
from pushtrain.demo.screen import Screen
from pushtrain.demo.story import play


def demo(*, keep: Annotated[bool, Parameter(negative="")] = False, json: Json = False) -> None:
    """Watch a push train a model and come back as a commit, on this machine.

    Starts a Git host, an executor and a sender on loopback, in a temporary folder; pushes a small training
    project, shows each stage as it passes, and the report that comes back; then pushes a change of one line,
    to show how quick it is when everything is warm. Ctrl-C ends it; nothing is left behind.

    Args:
        keep: Leave everything running at the end, and say how to look around and how to end it.
    """
    told = play(Screen(quiet=json), keep=keep)
    if json:
        render.emit_json(told)
