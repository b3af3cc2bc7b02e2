"""The settings in force: `settings.toml`, then the environment, then flags; the last one wins."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from pushtrain.core.errors import ConfigError, UsageError
from pushtrain.core.model import Value
from pushtrain.core.settings import ExecutorSettings, SenderSettings, Settings
from pushtrain.plumbing.gitcommand import key_of, validate_remote
from pushtrain.plumbing.state import StateFolder, default_state

_SECTIONS: Final[dict[str, type[Value]]] = {"executor": ExecutorSettings, "sender": SenderSettings}
_FLAGS: Final = {"executors": "--executor", "labels": "--label"}
"""Flags that are not called as their setting."""


def open_state(path: Path | None = None) -> StateFolder:
    """The state folder, made if need be.

    Raises:
        StorageError: It cannot be made or written.
    """
    return StateFolder(path.expanduser().absolute() if path else default_state()).create()


def load_settings(
    state: StateFolder,
    *,
    environ: Mapping[str, str] = os.environ,
    executor: Mapping[str, Any] | None = None,
    sender: Mapping[str, Any] | None = None,
    repositories: tuple[str, ...] = (),
    named_by: str = "`--repo`",
) -> Settings:
    """The settings in force.

    Args:
        state: Whose `settings.toml` is read; it need not exist.
        environ: Where `PUSHTRAIN_EXECUTOR_…`, `PUSHTRAIN_SENDER_…` and `PUSHTRAIN_ROSTER` are looked up.
        executor: Flags of the executor; a None counts as not given.
        sender: Flags of the sender; likewise.
        repositories: Remotes beside those in the file.
        named_by: Where these come from, for the error.

    Raises:
        UsageError: A remote is none that git may be given.
        ConfigError: A setting is unknown or wrong; names where it stands, its value and the mend.
    """
    tables = _read(state.settings)
    remotes = tables.get("repositories", [])
    tables["repositories"] = _repositories(remotes, repositories, state.settings, named_by)
    if "PUSHTRAIN_ROSTER" in environ:
        tables["roster"] = environ["PUSHTRAIN_ROSTER"]
    flags = {"executor": executor or {}, "sender": sender or {}}
    origins: dict[tuple[str, str], str] = {}
    for section, model in _SECTIONS.items():
        table = tables.get(section, {})
        if not isinstance(table, dict):
            raise ConfigError(
                f"{state.settings}: `{section}` is {table!r}.", mend=f"Write a table, `[{section}]`."
            )
        for field, info in model.model_fields.items():
            variable = f"PUSHTRAIN_{section}_{field}".upper()
            if (value := environ.get(variable)) is not None:
                table[field] = _from_text(value, str(info.annotation))
                origins[section, field] = variable
            if (given := flags[section].get(field)) is not None:
                table[field] = given
                origins[section, field] = _FLAGS.get(field, f"--{field.replace('_', '-')}")
        tables[section] = table
    try:
        return Settings.model_validate(tables)
    except ValidationError as error:
        raise _explain(error, state.settings, origins) from None


def _from_text(value: str, annotation: str) -> Any:
    """A setting from the environment: `a,b` for lists, `a=/x` for tables, `URL KEY` for executors."""
    words = [word.strip() for word in value.split(",") if word.strip()]
    if annotation.startswith("dict"):
        return dict(word.partition("=")[::2] for word in words)
    if "ExecutorAddress" in annotation:
        return [dict(zip(("url", "public_key"), word.split(None, 1), strict=False)) for word in words]
    return words if annotation.startswith("tuple") else value


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    import tomllib

    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.", mend="Mend the file or remove it.") from error


def _repositories(entries: object, more: tuple[str, ...], path: Path, named_by: str) -> list[dict[str, Any]]:
    """Each entry as key and remote; a plain string is a remote whose key is its host and path."""
    if not isinstance(entries, list) or not all(isinstance(entry, str | dict) for entry in entries):
        raise ConfigError(
            f"{path}: `repositories` is {entries!r}, not a list of addresses.",
            mend='Write for example `repositories = ["https://github.com/octo/hello"]`.',
        )
    found: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate((*entries, *more)):
        table = {"remote": entry} if isinstance(entry, str) else dict(entry)
        remote = str(table.get("remote", ""))
        try:
            validate_remote(remote)
            table.setdefault("key", key_of(remote))
        except UsageError as error:
            place = path if number < len(entries) else named_by
            raise UsageError(f"{place}: {error.message}", mend=error.mend) from error
        found[str(table["key"])] = table
    return list(found.values())


def _explain(error: ValidationError, path: Path, origins: Mapping[tuple[str, str], str]) -> ConfigError:
    """One line for the first thing that is wrong."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        import difflib

        *section, name = (str(part) for part in first["loc"])
        model: type[Value] = _SECTIONS.get(section[0], Settings) if section else Settings
        near = difflib.get_close_matches(name, model.model_fields, n=1)
        mend = f"Did you mean `{near[0]}`?" if near else "docs/settings.md lists the settings."
        return ConfigError(f"{path}: there is no setting `{where}`.", mend=mend)
    table, field = (*map(str, first["loc"][:2]), "")[:2]
    origin = origins.get((table, field), "")
    place = f"`{origin}`" if origin else f"{path}: `{where}`"
    why = f"{first['msg'][0].lower()}{first['msg'][1:]}"
    mend = f"docs/settings.md tells what `{table}.{field}` takes." if origin else "Mend it there."
    return ConfigError(f"{place} is {first['input']!r}: {why}.", mend=mend)
