"""The owner's rules in plain language: each one's value in force, where it came from, and what follows.

Pure. A rule without words here is a failing test, so whoever adds one says what it means.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pushtrain.core.owner.rules import Allow, Rules
from pushtrain.core.owner.ruling import amount, spoken
from pushtrain.core.owner.words import OWNER
from pushtrain.core.text.forms import listed
from pushtrain.core.values.isolation import JobNetwork
from pushtrain.core.values.value import Value

DEFAULT: Final = "default"


@dataclass(frozen=True, slots=True)
class Row:
    """One rule, as it is told."""

    group: str
    rule: str
    """Its place in settings.toml: `rules.limits.time`."""
    value: str
    """What is in force, in a word or two."""
    origin: str
    """`default`, `settings.toml`, a variable or a flag."""
    means: str
    """A sentence or two, for the value in force."""
    entries: tuple[str, ...] = ()
    """Of `rules.allow`: what each entry allows."""


def explain(rules: Rules, origins: Mapping[tuple[str, ...], str]) -> tuple[Row, ...]:
    """Every rule, group by group.

    Args:
        rules: What is in force.
        origins: Where what is not the default came from (`wiring.settings.Loaded`).
    """
    rows = []
    for group, words in _GROUPS.items():
        for rule, (shown, means) in words.items():
            place = tuple(rule.split("."))
            value: Any = rules
            for name in place[1:]:
                value = getattr(value, name)
            entries = tuple(entry_in_words(entry) for entry in value) if rule == "rules.allow" else ()
            origin = origins.get(place, DEFAULT)
            rows.append(Row(group, rule, shown(value), origin, means(rules), entries))
    return tuple(rows)


def every_rule(model: type[Value] = Rules, place: str = "rules") -> Iterator[str]:
    """The place of every rule that there is."""
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Value):
            yield from every_rule(kind, f"{place}.{name}")
        else:
            yield f"{place}.{name}"


def entry_in_words(entry: Allow) -> str:
    """What one entry of `rules.allow` allows."""
    where = "every repository that is served here" if entry.repository == "**" else entry.repository
    number = f", if its host says that its number is {entry.id}" if entry.id else ""
    refs = f"{_refs('branch', 'branches', entry.branches)} and {_refs('tag', 'tags', entry.tags)}"
    pulls = "no pull requests"
    if entry.pull_requests:
        pulls = "pull requests, from forks too" if entry.forks else "pull requests, but none from a fork"
    senders = f"sent by {listed(entry.senders)}" if entry.senders else "sent by any authorised key"
    return f"{where}{number}: {refs}; {pulls}; {senders}"


def _refs(one: str, many: str, patterns: Sequence[str]) -> str:
    if tuple(patterns) == ("**",):
        return f"every {one}"
    return f"{many} {listed(patterns)}" if patterns else f"no {one}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _list(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values)) if values else "none"


def _programs(programs: Sequence[Sequence[str]]) -> str:
    return ", ".join(argv[0] for argv in programs) if programs else "none"


def _entries(entries: Sequence[Allow]) -> str:
    return f"{len(entries)} entr{'ies' if len(entries) != 1 else 'y'}" if entries else "no entry"


def _or(none: str, said: Callable[[Any], str] = amount) -> Callable[[Any], str]:
    return lambda value: said(value) if value else none


def _count(count: int) -> str:
    return f"{count:,}".replace(",", " ")


_NETWORKS: Final = {
    JobNetwork.INTERNET: "Jobs reach public addresses, and neither your network nor this machine.",
    JobNetwork.FULL: "Jobs reach whatever this machine reaches, your network included.",
    JobNetwork.FETCH_ONLY: "Builds and `setup` reach public addresses; the job's command reaches nothing.",
    JobNetwork.NONE: "Jobs and builds reach nothing.",
}

_Words = tuple[Callable[[Any], str], Callable[[Rules], str]]
"""How a value is shown, and what it means."""


def _allow(rules: Rules) -> str:
    if not rules.allow:
        return f"Allowed is {entry_in_words(Allow())}."
    return "A run needs one entry that allows all of it."


def _committed(rules: Rules) -> str:
    if rules.committed_jobs or rules.require_signed_commits:
        return "A job must stand in the commit's pushtrain.toml, word for word."
    return "A key that may send may send any command, also one that no commit holds."


def _signed(rules: Rules) -> str:
    if not rules.require_signed_commits:
        return "A commit need not be signed."
    return "A commit without the signature of a listed signer is refused before anything of it is run."


def _signers(kind: str, name: str) -> Callable[[Rules], str]:
    def means(rules: Rules) -> str:
        return f"{kind} keys in that file count." if getattr(rules, name) else f"No {kind} key counts."

    return means


def _data_hosts(rules: Rules) -> str:
    if rules.allow_data_hosts:
        return "Data comes from the public internet, and from these servers of yours."
    return "Data comes from the public internet only."


def _credentials(rules: Rules) -> str:
    if rules.data_credentials:
        return "Data below these is fetched with this machine's credentials, all other as everybody may."
    return "Data is fetched as everybody may, never with this machine's credentials."


def _submodules(rules: Rules) -> str:
    if rules.submodules:
        return "These submodules are fetched with your credentials, others as a stranger would."
    return "Submodules are fetched as a stranger would: public ones, over https."


def _branches(rules: Rules) -> str:
    more = "and these" if rules.results_branches else "and nowhere else"
    return f"Results go to pushtrain/results and the pushed branch {more}."


def _urls(rules: Rules) -> str:
    if rules.artifact_urls:
        return "Large files may be uploaded there with your credentials."
    return "Large files stay here or go into Git LFS; nothing is uploaded with your credentials."


def _downloads(rules: Rules) -> str:
    if not rules.limits.downloads_per_day:
        return "Data, git and environments may bring in as much as they want."
    return "Data, git and environments of all runs together, midnight to midnight UTC; then runs wait."


def _idle(rules: Rules) -> str:
    if not rules.limits.gpu_idle:
        return "A run that leaves its GPU idle is told of, and goes on."
    return "A run that computes nothing on its GPU for so long is ended."


def _data(rules: Rules) -> str:
    most = amount(rules.limits.data or rules.limits.disk)
    return f"The data of one run has at most {most}, and as much again out of archives."


def _memory(rules: Rules) -> str:
    if rules.limits.memory:
        return "All processes of an attempt together; a job that asks for more is refused."
    return "All processes of an attempt together get all of the machine's memory but a tenth."


def _hooks(when: str, name: str) -> Callable[[Rules], str]:
    def means(rules: Rules) -> str:
        return when if getattr(rules.hooks, name) else "No program of yours is run."

    return means


def _says(sentence: str) -> Callable[[Rules], str]:
    return lambda _: sentence


_GROUPS: Final[Mapping[str, Mapping[str, _Words]]] = {
    "Who may run what": {
        "rules.allow": (_entries, _allow),
        "rules.committed_jobs": (_yes, _committed),
        "rules.require_signed_commits": (_yes, _signed),
        "rules.allowed_signers": (lambda path: path or "none", _signers("SSH", "allowed_signers")),
        "rules.gpg_keyring": (lambda path: path or "none", _signers("GPG", "gpg_keyring")),
    },
    "How it is locked in": {
        "rules.min_isolation": (
            lambda level: level.value,
            lambda rules: (
                f"Jobs run at the level `{rules.min_isolation.value}` or a stronger one, or not at all."
            ),
        ),
        "rules.network": (lambda network: network.value, lambda rules: _NETWORKS[rules.network]),
    },
    "What comes in": {
        "rules.allow_data_hosts": (_list, _data_hosts),
        "rules.data_credentials": (_list, _credentials),
        "rules.submodules": (_list, _submodules),
        "rules.limits.downloads_per_day": (_or("no limit"), _downloads),
        "rules.limits.data": (_or("as `disk`"), _data),
        "rules.limits.data_files": (_count, _says("Files in one archive, or in one folder's manifest.")),
        "rules.limits.data_ratio": (
            _count,
            _says("Bytes out of each byte of a large archive."),
        ),
        "rules.limits.repository": (
            amount,
            _says("What one fetch brings, or one commit's files come to."),
        ),
        "rules.limits.files": (_count, _says("Files of one commit; one with more is refused.")),
    },
    "Where results may go": {
        "rules.results_branches": (_list, _branches),
        "rules.artifact_urls": (_list, _urls),
    },
    "What one attempt may use": {
        "rules.limits.time": (
            spoken,
            _says("A training is ended then; a job that asks for more is refused."),
        ),
        "rules.limits.memory": (_or("most of it"), _memory),
        "rules.limits.disk": (_or("nothing"), _says("Written below the attempt's own folders.")),
        "rules.limits.gpu_hours_per_day": (
            lambda hours: f"{hours:g} h" if hours else "no limit",
            _says("What one person's runs may use of GPUs in a day; then they wait."),
        ),
        "rules.limits.priority": (_count, _says("The highest priority of a job that counts.")),
        "rules.limits.processes": (_count, _says("Processes and threads at once.")),
        "rules.limits.gpu_idle": (_or("no limit", spoken), _idle),
        "rules.limits.log": (amount, _says("Kept of its log, half head and half tail; the rest is counted.")),
    },
    "When it is lent": OWNER,
    "Your own programs": {
        "rules.hooks.before": (
            _programs,
            _hooks("Before an attempt; one that fails refuses it.", "before"),
        ),
        "rules.hooks.after": (_programs, _hooks("When an attempt has ended, at least once.", "after")),
        "rules.hooks.timeout": (spoken, _says("Each of them is ended after that, and has failed.")),
    },
}
