"""The verbs and where each one stands; a verb's module is imported only when it is called.

`run` is the one place where errors become a line on the terminal and an exit status (docs/cli.md lists them).
"""

import errno
import os
import sys
from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from cyclopts import App, CycloptsError, Group, Parameter

from pushtrain import __version__
from pushtrain.core.errors import PushtrainError, StorageError, UsageError

HELP: Final = """Push to train.

A `git push` starts training on a GPU somebody lends you, and the results come back as a commit.
To begin: `pushtrain init` in your repository, then `pushtrain up` on the machine that trains.
"""

_START: Final = Group.create_ordered("Start here")
_RUNS: Final = Group.create_ordered("Runs")
_MACHINES: Final = Group.create_ordered("Machines")
_MORE: Final = Group.create_ordered("More")

VERBS: Final[tuple[tuple[str, str, str, Group], ...]] = (
    (
        "demo",
        "demo:demo",
        "Watch a push train a model and come back as a commit, on this machine.",
        _START,
    ),
    ("init", "init:init", "Write a commented pushtrain.toml by looking at this repository.", _START),
    ("check", "check:check", "Validate pushtrain.toml and explain what a push would start, and why.", _START),
    ("up", "up:up", "Executor and sender in one process: for the person with one machine.", _START),
    ("send", "send:send", "Start the jobs of a commit by hand.", _RUNS),
    ("ps", "ps:ps", "List runs.", _RUNS),
    ("show", "show:show", "Show one run: its stages, its end, its files.", _RUNS),
    ("logs", "logs:logs", "Print a run's log; `-f` follows it.", _RUNS),
    ("cancel", "cancel:cancel", "Cancel a run.", _RUNS),
    ("rerun", "rerun:rerun", "Run the same command once more, as a new run.", _RUNS),
    ("results", "results:app", "List, show and fetch what runs left.", _RUNS),
    ("secret", "secret:app", "Give jobs secrets, sealed so that only their executors can read them.", _RUNS),
    ("executor", "executor:app", "Lend this machine.", _MACHINES),
    ("pause", "pause:pause", "Do not lend this machine for a while: it is yours at once.", _MACHINES),
    ("resume", "pause:resume", "Lend this machine again after a pause.", _MACHINES),
    ("sender", "sender:app", "Turn pushes into commands: webhook and polling.", _MACHINES),
    (
        "roster",
        "roster:roster",
        "List the executors that offer to train here, and whom you trust.",
        _MACHINES,
    ),
    ("invite", "invite:invite", "Invite somebody to send to the executor that runs here.", _MACHINES),
    ("join", "join:join", "Join an executor whose owner has invited you.", _MACHINES),
    ("key", "key:app", "Who may command whom.", _MACHINES),
    ("gpus", "gpus:gpus", "Show what each GPU does now, who has it, and whether it is lent.", _MACHINES),
    ("usage", "usage:usage", "Tell who used how much of the machines, and for what runs waited.", _MACHINES),
    ("doctor", "doctor:doctor", "Check this machine, and say the mend for what is wrong.", _MACHINES),
    ("store", "store:app", "Check, copy and recover this machine's memory of runs.", _MACHINES),
    ("data", "data:app", "Measure and pin data sets.", _MORE),
    ("schema", "schema:schema", "Print the JSON Schema of pushtrain.toml for editors.", _MORE),
    ("completion", "completion:completion", "Print or install shell completion.", _MORE),
)
"""Name, module below `pushtrain.cli` and its object, one line of help, group."""


def build(verb: str = "") -> App:
    """The command tree, with no verb's module loaded.

    Args:
        verb: The one that is about to be called, or `*` for all: its help is its docstring, not one line.
    """
    app = App(
        name="pushtrain",
        help=HELP,
        version=f"pushtrain {__version__}",
        help_format="markdown",
        default_parameter=Parameter(show_default=_shown),
    )
    for place, (name, target, line, group) in enumerate(VERBS):
        text = None if verb in {name, "*"} else line
        app.command(f"pushtrain.cli.{target}", name=name, help=text, group=group, sort_key=place)
    if verb == "*":
        for name in _below(app):
            for second in _below(app[name]):
                _tell_all(app, (name, second))
    return app


def _below(app: App) -> list[str]:
    return [name for name in app if not name.startswith("-")]


def _tell_all(app: App, words: Sequence[str]) -> None:
    """Have a verb below a verb tell all of its help when it is called, not the line by which it is listed."""
    match list(takewhile(lambda word: not word.startswith("-"), words)):
        case [verb, second, *_] if verb in app and second in app[verb]:
            called = app[verb][second]
            if called.default_command is not None:
                called.help = None


def _shown(default: object) -> str | None:
    """A default in the help; None where it only says that nothing was given."""
    return None if default in {"", (), False, None} else f"{default}"


def run(argv: Sequence[str]) -> int:
    """Run one command line; returns the exit status, never raises for a user's mistake."""
    word = next((word for word in argv if not word.startswith("-")), "")
    names = [verb[0] for verb in VERBS]
    if word and word not in names:
        from difflib import get_close_matches

        near = get_close_matches(word, names, n=1)
        mend = f"Did you mean `pushtrain {near[0]}`?" if near else "`pushtrain --help` lists the verbs."
        _complain(f"There is no verb `{word}`.", mend, argv, UsageError.code)
        return UsageError.exit_code
    app = build(word)
    try:
        _tell_all(app, argv)
        result = app(argv, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        from pushtrain.cli.screen.misuse import misused  # lazy: rarely needed

        _complain(*misused(error, app), argv, UsageError.code)
        return UsageError.exit_code
    except PushtrainError as error:
        _complain(error.message, error.mend, argv, error.code)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _let_output_go(141)
    except SystemExit as error:
        if error.code != 1:
            raise
        return _let_output_go(141)  # so rich answers to a broken pipe; nothing of ours exits with 1
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _complain(f"The output could not be written: {error.strerror}.", "", argv, StorageError.code)
        return _let_output_go(StorageError.exit_code)
    return result if isinstance(result, int) else 0


def _let_output_go(status: int) -> int:
    """Let what is still buffered go nowhere, or Python would complain of it at its end; gives the status."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return status


def _complain(message: str, mend: str, argv: Sequence[str], code: str) -> None:
    from pushtrain.cli.screen import render

    render.error(message, mend, code=code, as_json="--json" in argv)
