"""The owner's own programs before and after an attempt: run as the executor's user, outside every sandbox.

- Each gets one JSON object on standard input (docs/rules.md#hooks) and a short, fixed environment: nothing of
  the executor's own but where programs are and how the user's session is reached, no token.
- `before` runs once the rules have let an attempt pass, and before its files are written. One that fails,
  takes too long or cannot be started refuses the run. Its last line is for the owner's log alone.
- `after` runs at least once for each attempt that was begun: when it has ended, whichever way, and before
  that is written down. An executor that dies in between runs it again at its next start. Its failure is
  logged.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pushtrain.core.errors import ConfigError
from pushtrain.core.lifecycle import Event, outcome_of
from pushtrain.core.owner import rules
from pushtrain.core.owner.ruling import BEFORE, Refusal, Sender
from pushtrain.core.text.forms import clean
from pushtrain.core.values.run import Attempt, Run
from pushtrain.plumbing.keys.ownership import demand_own
from pushtrain.plumbing.programs import process
from pushtrain.ports import Stop

_log = logging.getLogger(__name__)

VERSION: Final = 1
INHERITED: Final = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "WAYLAND_DISPLAY",
)
"""All that a hook finds in its environment, as far as the executor has it."""
_OUTPUT: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of one executor."""

    wanted: rules.Hooks = field(default_factory=rules.Hooks)
    executor: str = "executor"
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def check(self) -> None:
        """See that each can be run.

        Raises:
            ConfigError: A program is not there, or could have been written by somebody else.
        """
        for when, programs in (("before", self.wanted.before), ("after", self.wanted.after)):
            for argv in programs:
                program = Path(argv[0])
                what = f"`rules.hooks.{when}` names {clean(argv[0])}"
                if not program.is_absolute():
                    raise ConfigError(
                        f"{what}, which is no absolute path.", mend="Write it from the root on."
                    )
                if not program.is_file() or not os.access(program, os.X_OK):
                    raise ConfigError(f"{what}, which is no program.", mend=f"`chmod +x {program}`")
                demand_own(program, f"The program of `rules.hooks.{when}`,")

    def before(self, run: Run, sender: Sender, *, isolation: str, stop: Stop) -> Refusal | None:
        """Run what comes before an attempt; why it must not go on, or None."""
        for argv in self.wanted.before:
            trouble = self._run(argv, {**self._about("before", run, sender), "isolation": isolation}, stop)
            if trouble:
                _log.warning("run %s is refused by the hook %s: %s", run.short, clean(argv[0]), trouble)
                why = "a hook of the owner refused it"
                return Refusal(BEFORE, why, "Ask the executor's owner; the executor's log tells more.")
        return None

    def after(self, run: Run, sender: Sender, attempt: Attempt, event: Event, *, stop: Stop) -> None:
        """Run what comes after an attempt.

        Raises:
            Cancelled: `stop` wanted it; they must be run again.
        """
        outcome = outcome_of(event)
        told = {
            "isolation": attempt.isolation,
            "outcome": outcome.value if outcome else "",
            "reason": attempt.reason.value,
            "detail": attempt.detail,
            "exit_code": attempt.exit_code,
            "started_at": attempt.started_at,
            "ended_at": attempt.ended_at,
            "log_size": attempt.log_size,
        }
        for argv in self.wanted.after:
            trouble = self._run(argv, {**self._about("after", run, sender), **told}, stop)
            if trouble:
                _log.warning("after run %s the hook %s failed: %s", run.short, clean(argv[0]), trouble)

    def _about(self, when: str, run: Run, sender: Sender) -> dict[str, Any]:
        command = run.command
        return {
            "version": VERSION,
            "event": when,
            "executor": self.executor,
            "run": run.id,
            "attempt": run.attempt,
            "repository": command.repository,
            "ref": command.ref,
            "commit": command.commit,
            "job": command.job.name,
            "cell": command.job.cell,
            "request": command.request,
            "sender": {"key": sender.key, "name": sender.name},
            "gpus": list(run.gpus),
        }

    def _run(self, argv: tuple[str, ...], document: Mapping[str, Any], stop: Stop) -> str:
        """Run one; what went wrong, empty when nothing did."""
        env = {name: self.environ[name] for name in INHERITED if name in self.environ}
        try:
            done = process.run(
                argv,
                cwd=Path("/"),
                env={**env, "PUSHTRAIN_HOOK": str(document["event"])},
                input=json.dumps(document, ensure_ascii=True).encode() + b"\n",
                timeout=self.wanted.timeout,
                stop=stop,
                limit=_OUTPUT,
            )
        except TimeoutError:
            return f"it took longer than {self.wanted.timeout:g} s and was ended"
        except OSError as error:
            return f"it could not be started: {error.strerror or error}"
        if not done.code:
            return ""
        said = [line.strip() for line in (done.text + "\n" + done.complaint).splitlines() if line.strip()]
        last = clean(said[-1])[:500] if said else "it said nothing"
        return f"exit code {done.code}: {last}"
