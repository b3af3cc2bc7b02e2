"""`pushtrain executor service`: lend this machine for good, as a service of systemd."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from pushtrain.cli.options import Json, State
from pushtrain.cli.screen import render
from pushtrain.core.errors import ConfigError, NeedsMending, NotFound, PushtrainError, UsageError
from pushtrain.plumbing.disk.state import StateFolder, default_state
from pushtrain.plumbing.machine.systemd import UNIT, Manager
from pushtrain.plumbing.machine.unit import Unit, absolute, below_home, text
from pushtrain.wiring.settings import load_settings

app = App(name="service")

System = Annotated[
    bool, Parameter(negative="", help="A service of the machine with an account of its own; needs root.")
]
Name = Annotated[str, Parameter(name="--name", help="The unit's name, for a second one on a machine.")]

_ACCOUNT: Final = "pushtrain"
_SYSTEM_STATE: Final = Path("/var/lib/pushtrain")
_LINGER: Final = "`sudo loginctl enable-linger {}`"
_TOKENS: Final = """\
# Read when the service starts; one NAME=value a line. Only you may read this file (mode 0600).
# What you set here no job sees.
#PUSHTRAIN_GIT_TOKEN=
#PUSHTRAIN_HOST_TOKEN=
#NGROK_AUTHTOKEN=
"""


@app.command
def install(
    *words: Annotated[str, Parameter(show=False)],
    system: System = False,
    account: str = _ACCOUNT,
    up: Annotated[bool, Parameter(negative="")] = False,
    start: bool = True,
    name: Name = UNIT,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    state: State = None,
) -> None:
    """Have systemd start the executor now, at every boot, and again when it fails.

    By default it is a service of yours: it runs as you, with your files in reach of its jobs. With `--system`
    it runs as an account of its own that reaches no home and writes nothing but its state folder. Installing
    again replaces the unit. Flags of `pushtrain executor` come last, after `--`:
    `pushtrain executor service install -- --repo https://github.com/octo/hello --tunnel ngrok`.

    Args:
        words: Flags of `pushtrain executor`, after `--`.
        account: For `--system`: whom it runs as; made when there is none.
        up: Run `pushtrain up` (executor and sender in one) instead.
        start: Start it now; `--no-start` only prepares it.
        dry_run: Print the unit and change nothing.
    """
    manager = Manager(system)
    unit = _unit(manager, words, "up" if up else "executor", account=account, name=name, state=state)
    path = manager.units / f"{name}.service"
    if dry_run:
        _print_unit(path, unit, as_json=json)
        return
    _check(manager, unit)
    if system:
        _check_reach(unit)
        manager.add_account(account, unit.state)
    else:
        StateFolder(unit.state).create()
    if not unit.environment_file.exists():
        manager.write(unit.environment_file, _TOKENS, mode=0o600)
    manager.write(path, text(unit), mode=0o644)
    manager.call("daemon-reload")
    manager.call("enable", path.name)
    if start:
        manager.call("restart", path.name)
    lingers = manager.linger()
    if json:
        render.emit_json({"unit": str(path), "environment": str(unit.environment_file), "lingers": lingers})
    else:
        render.say(f"{'Started' if start else 'Installed'} [bold]{path.name}[/] ({path})")
        render.say(f"  tokens   {unit.environment_file}")
        render.say(f"  log      {manager.journal(path.name)}")
    if not lingers:
        raise NeedsMending(
            f"It runs, but ends when {manager.user} logs out: lingering is off.",
            mend=_LINGER.format(manager.user),
        )


@app.command
def uninstall(*, system: System = False, name: Name = UNIT, json: Json = False) -> None:
    """Stop the service and remove its unit; trainings that run go on to their end.

    State folder, tokens and account stay.
    """
    manager = Manager(system)
    path = manager.units / f"{name}.service"
    if not path.exists():
        raise _not_installed(path)
    manager.check()
    manager.call("disable", "--now", path.name)
    path.unlink()
    manager.call("daemon-reload")
    if json:
        render.emit_json({"removed": str(path)})
    else:
        render.say(f"Removed {path}. Trainings that run go on; state folder and tokens stay.")


@app.command
def status(*, system: System = False, name: Name = UNIT, json: Json = False) -> None:
    """Show whether the service runs, since when, and where its log is."""
    manager = Manager(system)
    path = manager.units / f"{name}.service"
    if not path.exists():
        raise _not_installed(path)
    manager.check()
    found = manager.show(path.name)
    if json:
        render.emit_json({**found, "Lingers": manager.lingers, "Journal": manager.journal(path.name)})
        return
    since = found.get("ActiveEnterTimestamp", "")
    result = found.get("Result", "success")
    rows = {
        "unit": str(path),
        "state": f"{found.get('ActiveState')} ({found.get('SubState')}){since and f' since {since}'}",
        "at boot": found.get("UnitFileState", ""),
        "process": found.get("MainPID", "0"),
        "restarts": found.get("NRestarts", "0") + ("" if result == "success" else f", last result {result}"),
        "after logout": "goes on" if manager.lingers else f"ends; {_LINGER.format(manager.user)}",
        "log": manager.journal(path.name),
    }
    for row, value in rows.items():
        render.say(f"  [dim]{row:<13}[/]{value}")


def _unit(
    manager: Manager, words: tuple[str, ...], verb: str, *, account: str, name: str, state: Path | None
) -> Unit:
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"`{name}` is no name for a unit.", mend="Use letters, digits, `-` and `_`.")
    if "--state" in words:
        raise UsageError("`--state` goes before `--`.", mend="The service needs to know its folder.")
    root = state.expanduser().absolute() if state else _SYSTEM_STATE if manager.system else default_state()
    settings = load_settings(StateFolder(root))
    lent = (*settings.executor.mounts.values(), *settings.executor.environments.values())
    return Unit(
        command=(*_program(), verb, "--state", str(root), *words),
        state=root,
        environment_file=manager.settings / f"{name}.env",
        account=account if manager.system else "",
        path="" if manager.system else absolute(os.environ.get("PATH", "")),
        lent=tuple(Path(folder) for folder in lent),
    )


def _program() -> tuple[str, ...]:
    """How this pushtrain is called, wherever one stands."""
    script = Path(sys.executable).with_name("pushtrain")
    return (str(script),) if script.exists() else (sys.executable, "-P", "-m", "pushtrain")


def _check(manager: Manager, unit: Unit) -> None:
    try:
        manager.check()
    except NotFound as error:
        line = f"{shlex.join(unit.command)} >>{shlex.quote(str(unit.state / 'executor.log'))} 2>&1"
        cron = line.replace("%", "\\%")
        raise NotFound(
            error.message,
            mend=f"Start it at boot by cron instead (`crontab -e`): `@reboot {cron}`; or now, in a terminal "
            f"that may be closed: `nohup {line} &`.",
        ) from error


def _check_reach(unit: Unit) -> None:
    """An account that reaches no home must not need a program that lies in one."""
    for path in (Path(unit.command[0]), Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()):
        if below_home(path):
            raise ConfigError(
                f"pushtrain is installed in {path}, where the account {unit.account} cannot read it.",
                mend="Install it for everybody: `sudo UV_TOOL_DIR=/opt/pushtrain "
                "UV_TOOL_BIN_DIR=/usr/local/bin UV_PYTHON_INSTALL_DIR=/opt/pushtrain/python "
                "uv tool install pushtrain`, and call that one.",
            )


def _print_unit(path: Path, unit: Unit, *, as_json: bool) -> None:
    content = text(unit)
    if as_json:
        render.emit_json({"unit": str(path), "environment": str(unit.environment_file), "text": content})
    else:
        sys.stdout.write(f"# {path}\n{content}")


def _not_installed(path: Path) -> PushtrainError:
    return NotFound(f"There is no such service: {path} does not exist.", mend="`… service install` makes it.")
