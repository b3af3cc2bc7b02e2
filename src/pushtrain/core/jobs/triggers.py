"""What starts a job: the values of `on`, read in GitHub Actions' vocabulary.

Filters mean what they mean in Actions' `on.push`; `core.policy` decides with them.
"""

from typing import Final

from pushtrain.core.text.forms import did_you_mean, kind
from pushtrain.core.text.patterns import PatternError, compiled
from pushtrain.core.text.reading import Table
from pushtrain.core.values.value import Value

_FILTERS: Final = ("branches", "branches-ignore", "tags", "tags-ignore", "paths", "paths-ignore")


class PushTrigger(Value):
    """Which pushes start a job; filters as in GitHub Actions' `on.push`."""

    branches: tuple[str, ...] = ()
    branches_ignore: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    tags_ignore: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    paths_ignore: tuple[str, ...] = ()


class Triggers(Value):
    """What starts a job."""

    push: PushTrigger | None = PushTrigger(branches=("**",))
    """None: no push does. Without `on` a push to any branch does; tags need `tags`."""
    manual: bool = True
    """Whether a person or a CI step may start it with `pushtrain send --job`."""


def read(table: Table) -> Triggers:
    """The job's `on`; mistakes go to the table's notes."""
    value = table.take("on")
    mend = 'Write "push", "manual", or a table such as `on = {push = {branches = ["main"]}, manual = true}`.'
    if value is None:
        return Triggers()
    words = [value] if isinstance(value, str) else value
    if isinstance(words, list):
        unknown = [word for word in words if word not in ("push", "manual")]
        if unknown or not words:
            hint = (
                did_you_mean(unknown[0], ("push", "manual"))
                if unknown and isinstance(unknown[0], str)
                else ""
            )
            table.wrong("on", value, "names an unknown trigger" if unknown else "is empty", hint or mend)
        return Triggers(push=PushTrigger() if "push" in words else None)
    if not isinstance(value, dict):
        table.wrong("on", value, f"is {kind(value)}, not text or a table", mend)
        return Triggers()
    below = Table(table.notes, (*table.path, "on"), value)
    manual = below.flag("manual", default=True)
    push = below.take("push")
    below.end(
        {
            "pull_request": "Only pushes start jobs; a pull request's branch is one.",
            "branches": mend,
            "paths": mend,
        }
    )
    if push is None or isinstance(push, bool):
        return Triggers(push=PushTrigger() if push else None, manual=manual)
    if not isinstance(push, dict):
        below.wrong(
            "push",
            push,
            f"is {kind(push)}, not a table",
            'Write `push = {branches = ["main"]}` or `push = true`.',
        )
        return Triggers(manual=manual)
    return Triggers(push=_filters(Table(table.notes, (*below.path, "push"), push)), manual=manual)


def _filters(table: Table) -> PushTrigger:
    found = {}
    for key in _FILTERS:
        found[key.replace("-", "_")] = patterns = table.texts(
            key, example="src/**" if "paths" in key else "main"
        )
        for text in patterns:
            try:
                compiled(text)
            except PatternError as error:
                table.wrong(
                    key,
                    text,
                    f"is not a pattern: {error}",
                    "docs/pushtrain-toml.md lists the special characters.",
                )
        if key in table.data and table.data[key] == []:
            table.wrong(key, [], "is empty", "Name at least one pattern, or leave it out.")
        elif patterns and not key.endswith("-ignore") and all(text.startswith("!") for text in patterns):
            table.wrong(
                key,
                list(patterns),
                "only takes back, and selects nothing",
                f"Use `{key}-ignore` without the `!`.",
            )
    for key in _FILTERS[::2]:
        if key in table.data and f"{key}-ignore" in table.data:
            mend = f"Use `{key}` alone, with `!` before the patterns to leave out."
            table.wrong(f"{key}-ignore", None, f"does not go with `{key}`", mend)
    table.end()
    return PushTrigger(**found)
