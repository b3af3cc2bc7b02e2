"""Which rosters the settings name, and reading them: for a sender, and for a verb."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from pushtrain.core.errors import ConfigError, UsageError
from pushtrain.core.settings import Repository, Settings
from pushtrain.core.wire.place import Place, beside, named, secrets_path
from pushtrain.plumbing.disk.state import StateFolder
from pushtrain.plumbing.git.mirror import Mirror
from pushtrain.plumbing.git.remotes import is_local, key_of, validate_remote
from pushtrain.plumbing.git.rosterfile import RosterFile
from pushtrain.plumbing.sqlite.cards import CardNotes
from pushtrain.ports import Stop
from pushtrain.sender.known import Memory, Rosters
from pushtrain.wiring.trust import follow, trusted_here

Mirrors = Callable[[Repository], Mirror]

_FRESH: Final = 15.0
"""Seconds for which what a verb read is good for the next one."""


def places(settings: Settings) -> list[tuple[Place, tuple[str, ...]]]:
    """The rosters, each with the keys of the repositories that use it.

    Raises:
        ConfigError: A setting names no place.
    """
    found: dict[str, tuple[Place, tuple[str, ...]]] = {}
    for repository in settings.repositories:
        text = settings.roster if repository.roster is None else repository.roster
        said = named(text)
        if said is None:
            continue
        home = _home(said.repository, repository, settings) if said.repository else repository
        place = Place(repository=home.model_copy(update={"roster": None}), branch=said.branch, path=said.path)
        _, users = found.get(place.title, (place, ()))
        found[place.title] = (place, (*users, repository.key))
    return list(found.values())


def _home(text: str, repository: Repository, settings: Settings) -> Repository:
    """The repository that a setting names: by remote, by key, or as a neighbour of another one."""
    known = {each.key: each for each in settings.repositories}
    if text in known:
        return known[text]
    first = text.partition("/")[0]
    if "://" in text or "@" in first or is_local(text):
        remote = text
    elif "." in first or ":" in first:
        remote = f"https://{text}"
    else:
        remote = beside(repository.remote, text)
    if not remote:
        raise ConfigError(
            f"`roster` is {text!r}, but {repository.key} is a folder of this machine.",
            mend="Write the roster's whole address.",
        )
    try:
        key = key_of(validate_remote(remote))
    except UsageError as error:
        shown = text if "@" not in text else "an address"  # it may hold a password
        raise ConfigError(f"`roster` is {shown!r}: {error.message}", mend=error.mend) from error
    return known.get(key) or Repository(key=key, remote=remote)


def roster_files(settings: Settings, mirror: Mirrors) -> list[tuple[RosterFile, tuple[str, ...]]]:
    """The rosters as files, each with the keys of the repositories that use it."""
    author = _author(settings)
    return [
        (RosterFile(mirror(place.repository), place, author=author), keys) for place, keys in places(settings)
    ]


def _author(settings: Settings) -> str:
    return f"pushtrain ({settings.executor.name}) <noreply@pushtrain.invalid>"


def secrets_file(place: Place, mirror: Mirrors, *, author: str) -> RosterFile:
    """The sealed secrets beside a roster."""
    beside = place.model_copy(update={"path": secrets_path(place.path)})
    return RosterFile(mirror(place.repository), beside, author=author)


def sealed_secrets(settings: Settings, mirror: Mirrors) -> dict[str, Callable[[Stop | None], str]]:
    """Reads the sealed secrets of each repository that is served, as they are at that moment."""
    found: dict[str, Callable[[Stop | None], str]] = {}
    for place, keys in places(settings):
        file = secrets_file(place, mirror, author=_author(settings))

        def read(stop: Stop | None, file: RosterFile = file) -> str:
            return file.read(stop=stop).text

        found |= dict.fromkeys(keys, read)
    return found


# --- reading ----------------------------------------------------------------------------------------------


def reading(
    state: StateFolder, settings: Settings, mirror: Mirrors, memory: Memory, *, quiet: bool = False
) -> Rosters:
    """The rosters for a reader; nothing is read yet."""
    return Rosters(
        [file for file, _ in roster_files(settings, mirror)],
        memory,
        lambda: trusted_here(state, settings),
        follow=lambda card: follow(state, settings, card),
        allow_http=settings.sender.allow_http,
        quiet=quiet,
    )


def look(state: StateFolder, settings: Settings, mirror: Mirrors, *, max_age: float = _FRESH) -> Rosters:
    """The rosters for a verb: read now, unless one was a moment ago; as remembered where git does not answer.

    Args:
        state: Keeps what was read.
        settings: Name the rosters.
        mirror: Of a roster's repository.
        max_age: Seconds for which what was read before is good enough.
    """
    notes = CardNotes(state.roster_notes)
    rosters = reading(state, settings, mirror, notes, quiet=True)
    rosters.recall(notes.texts())
    now = time.time()
    stale = [file for file in rosters.files if notes.age(file.place.title, now) > max_age]
    if stale:
        with ThreadPoolExecutor(min(8, len(stale))) as threads:
            list(threads.map(rosters.refresh, stale))
        texts, missed = rosters.texts(), rosters.trouble()
        titles = {file.place.title for file in stale} & texts.keys() - missed.keys()
        notes.note_texts({title: texts[title] for title in titles}, now)
    return rosters
