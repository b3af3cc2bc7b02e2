"""The settings in force: `settings.toml`, then the environment, then flags; the last one wins.

The file says what may run here, so one that others could have written is refused.
"""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from pydantic import ValidationError

from pushtrain.core.errors import ConfigError, UsageError
from pushtrain.core.owner.rules import Allow, Rules
from pushtrain.core.settings import ExecutorSettings, SenderSettings, Settings
from pushtrain.core.text.forms import Wrong, did_you_mean, dotted, show
from pushtrain.core.text.hours import Window
from pushtrain.core.values.value import Value
from pushtrain.plumbing.disk.state import StateFolder, default_state
from pushtrain.plumbing.git.remotes import key_of, validate_remote
from pushtrain.plumbing.keys.ownership import demand_own

FILE: Final = "settings.toml"
_SECTIONS: Final[dict[str, type[Value]]] = {
    "executor": ExecutorSettings,
    "sender": SenderSettings,
    "rules": Rules,
}
_FLAGS: Final = {"executors": "--executor", "labels": "--label"}
"""Flags that are not called as their setting."""
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings in force, and where each that is not the default came from."""

    settings: Settings
    origins: Mapping[Key, str] = field(default_factory=dict)
    """`settings.toml`, a variable or a flag, by the setting's place: `("rules", "limits", "time")`."""


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
    rules: Mapping[str, Any] | None = None,
    repositories: tuple[str, ...] = (),
    named_by: str = "`--repo`",
) -> Settings:
    """The settings in force.

    Args:
        state: Whose `settings.toml` is read; it need not exist.
        environ: Where `PUSHTRAIN_EXECUTOR_…`, `PUSHTRAIN_SENDER_…`, `PUSHTRAIN_RULES_…` and
            `PUSHTRAIN_ROSTER` are looked up.
        executor: Flags of the executor; a None counts as not given.
        sender: Flags of the sender; likewise.
        rules: Flags of the rules; likewise.
        repositories: Remotes beside those in the file.
        named_by: Where these come from, for the error.

    Raises:
        UsageError: A remote is none that git may be given.
        ConfigError: A setting is unknown or wrong, or the file could have been written by somebody else;
            names where it stands, its value and the mend.
    """
    flags = {"executor": executor or {}, "sender": sender or {}, "rules": rules or {}}
    return load(state, environ=environ, flags=flags, repositories=repositories, named_by=named_by).settings


def load(
    state: StateFolder,
    *,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, Mapping[str, Any]] | None = None,
    repositories: tuple[str, ...] = (),
    named_by: str = "`--repo`",
) -> Loaded:
    """As `load_settings`, with flags by section, and where each setting came from."""
    demand_own(state.settings, "The settings file")
    tables = _read(state.settings)
    origins: dict[Key, str] = {}
    remotes = tables.get("repositories", [])
    tables["repositories"] = _repositories(remotes, repositories, state.settings, named_by)
    if "PUSHTRAIN_ROSTER" in environ:
        tables["roster"] = environ["PUSHTRAIN_ROSTER"]
    for section, model in _SECTIONS.items():
        table = _table(tables, (section,), state.settings)
        for place, annotation in _places((section,), model):
            below = _table(tables, place[:-1], state.settings)
            name = place[-1]
            if name in below:
                origins[place] = FILE
            variable = "_".join(("PUSHTRAIN", *place)).upper()
            if (value := environ.get(variable)) is not None:
                below[name] = _from_text(value, annotation, variable)
                origins[place] = variable
        for name, value in ((flags or {}).get(section) or {}).items():
            if value is not None:
                table[name] = value
                origins[section, name] = _FLAGS.get(name, f"--{name.replace('_', '-')}")
    try:
        return Loaded(Settings.model_validate(tables), origins)
    except ValidationError as error:
        raise _explain(error, state.settings, origins) from None


def _places(path: Key, model: type[Value]) -> Iterator[tuple[Key, Any]]:
    """Every setting below a table, and what it takes; a table within it is gone through, too."""
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Value):
            yield from _places((*path, name), kind)
        else:
            yield (*path, name), kind


def _table(tables: dict[str, Any], path: Key, file: Path) -> dict[str, Any]:
    """The table at a place, made if it is not there."""
    found = tables
    for depth, name in enumerate(path, 1):
        found = found.setdefault(name, {})
        if not isinstance(found, dict):
            where = dotted(path[:depth])
            raise ConfigError(f"{file}: `{where}` is {show(found)}.", mend=f"Write a table, `[{where}]`.")
    return found


def _from_text(value: str, kind: Any, variable: str) -> Any:
    """A setting from the environment.

    `a,b` for lists, `a; b` for windows of the week, `a=/x` for tables, `URL KEY` for executors, a command
    line for programs, and for entries of `rules.allow` the list as TOML writes it.
    """
    annotation = str(kind)
    words = [word.strip() for word in value.split(",") if word.strip()]
    if annotation.startswith("dict"):
        return dict(word.partition("=")[::2] for word in words)
    if "ExecutorAddress" in annotation:
        return [dict(zip(("url", "public_key"), word.split(None, 1), strict=False)) for word in words]
    if Allow.__name__ in annotation:
        return _toml(value, variable)
    if Window in get_args(kind):  # a window may hold commas of its own
        return [word.strip() for word in value.split(";") if word.strip()]
    if _takes_programs(kind):
        return [_words(value, variable)] if value.strip() else []
    return words if annotation.startswith("tuple") else value


def _takes_programs(kind: Any) -> bool:
    """Whether it is a list of lists."""
    inner = next(iter(get_args(kind)), None)
    return get_origin(next(iter(get_args(inner)), None)) is tuple


def _toml(value: str, variable: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(f"value = {value or '[]'}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"`{variable}` is {show(value)}, which is no list of tables: {error}.",
            mend=f"Write for example `{variable}='[{{repository = \"github.com/octo/hello\"}}]'`.",
        ) from error


def _words(value: str, variable: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ConfigError(
            f"`{variable}` is {show(value)}, which is no command line: {error}.", mend="Check its quotes."
        ) from error


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


def _explain(error: ValidationError, path: Path, origins: Mapping[Key, str]) -> ConfigError:
    """One line for the first thing that is wrong."""
    first = error.errors(include_url=False)[0]
    loc = first["loc"]
    where = _where(loc)
    if first["type"] == "extra_forbidden":
        place = _place(loc[:-1], origins) or f"{path}"
        mend = did_you_mean(str(loc[-1]), _model(loc[:-1]).model_fields)
        return ConfigError(
            f"{place}: there is no setting `{where}`.", mend=mend or "docs/settings.md lists the settings."
        )
    origin = _place(loc, origins)
    shown = f"`{origin}`" if origin else f"{path}: `{where}`"
    mend = f"docs/settings.md tells what `{where}` takes." if origin else "Mend it there."
    wrong = (first.get("ctx") or {}).get("error")
    if first["type"] == "missing":
        return ConfigError(f"{shown} is missing.", mend=mend)
    private = loc[:1] == ("secrets",)  # somebody may have put a secret where its name or its file belongs
    if isinstance(wrong, Wrong):
        hidden = private or isinstance(first["input"], dict)
        value = "" if hidden else f" is {show(first['input'])}, which"
        return ConfigError(f"{shown}{value} {wrong.problem}.", mend=wrong.mend)
    if first["type"] in _BEYOND and (info := _model(loc[:-1]).model_fields.get(str(loc[-1]))):
        from pushtrain.wiring import bounds  # lazy: only where something is wrong

        value, must, mend = bounds.told("" if origin else f"{loc[-1]}", info, first["type"], first["input"])
        return ConfigError(f"{shown} is {value}: it must be {must}.", mend=mend)
    if first["type"] == "tuple_type" and not origin:
        example = show(first["input"]) if isinstance(first["input"], str) and not private else '"…"'
        mend = f"Write it in brackets, as in `{loc[-1]} = [{example}]`."
    why = _PLAINLY.get(first["type"]) or f"{first['msg'][0].lower()}{first['msg'][1:]}"
    value = "is wrong" if private else f"is {first['input']!r}"
    return ConfigError(f"{shown} {value}: {why}.", mend=mend)


_BEYOND: Final = frozenset({"greater_than", "greater_than_equal", "less_than", "less_than_equal"})
"""What pydantic calls a value beyond the least or the most that there is."""
_PLAINLY: Final = {
    "tuple_type": "it must be a list",
    "float_parsing": "it must be a number",
    "int_parsing": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "bool_parsing": "it must be true or false",
    "finite_number": "it must be a finite number",
}
"""What pydantic says in words of Python's, for people."""


def _where(loc: Sequence[int | str]) -> str:
    """A place for people: entries of lists count from 1."""
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in loc)


def _place(loc: Sequence[int | str], origins: Mapping[Key, str]) -> str:
    """The variable or the flag that a wrong value came from; empty: it stands in the file."""
    words = tuple(map(str, loc))
    found = next((origins[words[:end]] for end in range(len(words), 0, -1) if words[:end] in origins), FILE)
    return "" if found == FILE else found


def _model(loc: Sequence[int | str]) -> type[Value]:
    """The values that a table at this place is read as."""
    model: type[Value] = Settings
    for part in loc:
        if isinstance(part, int):
            continue
        kind = model.model_fields[part].annotation if part in model.model_fields else None
        below = [one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, Value)]
        if not below:
            break
        model = below[0]
    return model
