"""Write the pages of docs/ that are made from the code: cli.md, settings.md, errors.md and openapi.json.

`python scripts/docs.py` writes them; `python scripts/docs.py --check` fails if one is out of date (a test runs it).
"""

import ast
import importlib
import pkgutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any

import openapi
import pushtrain
from pushtrain.cli.app import build
from pushtrain.core import errors
from pushtrain.core.owner.lending import OwnerRules
from pushtrain.core.owner.rules import Allow, Hooks, Limits, Rules
from pushtrain.core.settings import ExecutorSettings, OwnerSecret, SenderSettings, Settings
from pushtrain.core.values.value import Value

ROOT = Path(__file__).resolve().parent.parent
MADE = "<!-- made by scripts/docs.py -->\n"


def field_docs(module: str) -> dict[tuple[str, str], str]:
    """The docstring below each field of each class of a module of the core."""
    tree = ast.parse((ROOT / "src/pushtrain/core" / f"{module}.py").read_text())
    found = {}
    for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for field, text in zip(cls.body, cls.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                name = field.target.id if isinstance(field.target, ast.Name) else ""
                found[cls.name, name] = " ".join(str(ast.literal_eval(text.value)).split())
    return found


def default(value: Any) -> str:
    """A default as one would write it in TOML."""
    if value in ((), {}):
        return "none"
    if isinstance(value, tuple):
        return f"`[{', '.join(default(one).strip('`') for one in value)}]`"
    if isinstance(value, StrEnum):
        return f'`"{value}"`'
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{value!r}`".replace("'", '"')


def settings_page() -> str:
    """docs/settings.md."""
    docs = field_docs("settings")
    page = [
        "# Settings",
        "",
        MADE,
        "`settings.toml` in the state folder (`--state`, else `PUSHTRAIN_STATE`, else `~/.local/state/pushtrain`). Every",
        "setting may also be given in the environment, and most as a flag of `pushtrain executor`, `pushtrain sender` or",
        "`pushtrain up`; a flag wins over the environment, which wins over the file. A misspelt setting is an error that",
        'names the one you meant. Sizes are bytes or text such as `"32GB"`, durations seconds or text such as `"30m"`. A file that',
        "others than its owner can write is refused.",
        "",
        "```toml",
        'repositories = ["https://github.com/octo/hello"]   # served and watched; the only ones',
        "",
        "[executor]",
        'name = "lab-3"',
        "slots = 2",
        'mounts = { imagenet = "/data/imagenet" }',
        "",
        "[sender]",
        'executors = [{ url = "http://127.0.0.1:8421", public_key = "ed25519:…" }]',
        "```",
        "",
        'A repository may also be a table with a key of its own: `{ key = "github.com/octo/hello", remote = "git@github.com:octo/hello.git" }`.',
        "A remote never holds a password; see [Credentials](#credentials).",
        "",
    ]
    page += [
        "## Where they find each other",
        "",
        "| setting | default | what it does |",
        "|---|---|---|",
        f"| `roster` | {default(Settings.model_fields['roster'].default)} | {docs['Settings', 'roster']} |",
        "",
        "In the environment: `PUSHTRAIN_ROSTER`. A repository's table may hold a `roster` of its own. [config-json.md](config-json.md)",
        "describes what lies there.",
        "",
    ]
    for title, name, model in (
        ("The executor", "executor", ExecutorSettings),
        ("The sender", "sender", SenderSettings),
    ):
        page += [f"## {title}: `[{name}]`", "", "| setting | default | what it does |", "|---|---|---|"]
        for field, info in model.model_fields.items():
            shown = default(info.get_default(call_default_factory=True))
            page.append(f"| `{field}` | {shown} | {docs[model.__name__, field]} |")
        page += [
            "",
            f"In the environment: `PUSHTRAIN_{name.upper()}_` and the setting's name in capitals, for example",
            f"`PUSHTRAIN_{name.upper()}_{'SLOTS=2' if name == 'executor' else 'POLL_SECONDS=30'}`. Lists are separated by commas: "
            + (
                "`linux,a100`; tables are `name=value` pairs: `imagenet=/data/imagenet`."
                if name == "executor"
                else "`URL KEY,URL KEY`."
            ),
            "",
        ]
    page += rules_part()
    page += [
        "## Secrets that the owner keeps: `[[secrets]]`",
        "",
        "One table for each value; [secrets.md](secrets.md#the-owners-own) has an example. In the file only, never in the environment.",
        "",
        "| setting | default | what it does |",
        "|---|---|---|",
        *(
            f"| `{field}` | {'must be given' if info.is_required() else default(info.default) if info.default else 'none'} "
            f"| {docs['OwnerSecret', field]} |"
            for field, info in OwnerSecret.model_fields.items()
        ),
        "",
    ]
    page += [
        "## Credentials",
        "",
        "git finds credentials as it always does: its own credential helpers, an SSH agent or key. Where there is none (a",
        "service, CI), a token in `PUSHTRAIN_GIT_TOKEN` is handed to git by a helper of ours: never in a URL, an argument list or a",
        "job's environment.",
        "",
        "| variable | meaning |",
        "|---|---|",
        "| `PUSHTRAIN_STATE` | the state folder |",
        "| `PUSHTRAIN_GIT_TOKEN` | token for fetching and pushing over https |",
        "| `PUSHTRAIN_HOST_TOKEN` | token for [commit statuses](commit-status.md); for github.com else `GITHUB_TOKEN`, `GH_TOKEN` |",
        "| `PUSHTRAIN_WEBHOOK_SECRET` | the secret shared with the Git host; else `webhook.secret` in the state folder |",
        "",
    ]
    return "\n".join(page)


RULES: tuple[tuple[str, type[Value]], ...] = (
    ("[rules]", Rules),
    ("[[rules.allow]]", Allow),
    ("[rules.limits]", Limits),
    ("[rules.hooks]", Hooks),
    ("[rules.owner]", OwnerRules),
)
"""The tables of the rules, as they are written, and what each is read as."""


def rules_part() -> list[str]:
    """The rules' part of docs/settings.md."""
    docs = {**field_docs("owner/rules"), **field_docs("owner/lending")}
    part = [
        "## The owner's rules: `[rules]`",
        "",
        "[rules.md](rules.md) is the page for owners, with an example; [owners.md](owners.md) tells of `[rules.owner]`. `pushtrain",
        "executor rules` tells what is in force. In the environment: `PUSHTRAIN_RULES_NETWORK=none`,",
        "`PUSHTRAIN_RULES_LIMITS_TIME=6h`, `PUSHTRAIN_RULES_OWNER_HOURS='Mon-Fri 18:00-08:00; Sat,Sun'`,",
        "`PUSHTRAIN_RULES_HOOKS_BEFORE='/usr/local/bin/may-train --quiet'`,",
        "`PUSHTRAIN_RULES_ALLOW='[{repository = \"github.com/octo/hello\"}]'`.",
        "",
    ]
    for table, model in RULES:
        part += [f"`{table}`", "", "| setting | default | what it does |", "|---|---|---|"]
        for field, info in model.model_fields.items():
            if not isinstance(info.default, Value):
                shown = default(info.get_default())
                part.append(f"| `{field}` | {shown} | {docs[model.__name__, field]} |")
        part.append("")
    return part


def kinds(cls: type[errors.PushtrainError]) -> set[type[errors.PushtrainError]]:
    """Every error below this one, wherever in the package it stands."""
    below = cls.__subclasses__()
    return set(below).union(*(kinds(one) for one in below))


def errors_page() -> str:
    """docs/errors.md."""
    rows = {
        (cls.exit_code, cls.code, cls.status, " ".join(str(cls.__doc__).split()))
        for cls in kinds(errors.PushtrainError)
        if "code" in vars(cls)
    }
    page = [
        "# Errors and exit codes",
        "",
        MADE,
        "An error is one line that names what failed, why, and the mend. Scripts get the same as JSON on standard error with",
        '`--json`: `{"error": {"code": …, "message": …, "mend": …}}`; a server answers with the same body and the status below.',
        "",
        "| exit code | code | HTTP status | meaning |",
        "|---|---|---|---|",
        *(
            f"| {exit_code} | `{code}` | {status} | {text} |"
            for exit_code, code, status, text in sorted(rows)
        ),
        "",
        "Besides: 0 success, 1 a defect of ours (please report it), 130 interrupted by Ctrl-C, 141 the reader of our output",
        "went away.",
        "",
    ]
    return "\n".join(page)


def cli_page() -> str:
    """docs/cli.md."""
    text = build("*").generate_docs(output_format="markdown", recursive=True)
    head = (
        "# Command line\n\n"
        + MADE
        + "\nExit codes: [errors.md](errors.md). Every verb takes `--json` for scripts.\n\n"
    )
    body = text.split("\n", 1)[1] if text.startswith("# ") else text
    return head + body.strip() + "\n"


SHAPES = (
    *("values/jobspec", "values/command", "values/card", "values/run"),
    *("wire/frames", "wire/bodies", "wire/invitation", "wire/grants"),
)
"""Modules of the core whose values travel."""


def main() -> int:
    """Write the pages, or compare them."""
    for module in pkgutil.walk_packages(pushtrain.__path__, "pushtrain."):
        if not module.name.startswith(
            ("pushtrain.demo.project", "pushtrain.executor.runs.shim", "pushtrain.__main__")
        ):
            importlib.import_module(module.name)
    stale = []
    shapes = {name: text for module in SHAPES for name, text in field_docs(module).items()}
    pages = {
        "cli.md": cli_page(),
        "settings.md": settings_page(),
        "errors.md": errors_page(),
        "openapi.json": openapi.page(shapes),
    }
    for name, page in pages.items():
        path = ROOT / "docs" / name
        if "--check" in sys.argv:
            if not path.exists() or path.read_text() != page:
                stale.append(path.name)
        else:
            path.write_text(page)
    if stale:
        print(f"out of date: {', '.join(stale)}; run `python scripts/docs.py`")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
