"""The JSON Schema of `pushtrain.toml`, for editors: shape, and a description of each key.

It accepts whatever `jobfile.parse` accepts. What a schema cannot say (paths that overlap, matrix names that
nothing defines) is left to `pushtrain check`. docs/pushtrain.schema.json is this, printed.
"""

from typing import Any, Final

from pushtrain.core.jobs import again, jobfile, matrix, needs
from pushtrain.core.text.forms import MAX_DURATION, MAX_INTEGER
from pushtrain.core.values import names, secretname
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.core.values.jobspec import MAX_SECRETS, MOST_PRIORITY, Concurrency, Launcher
from pushtrain.core.values.states import RETRIED

URL: Final = "https://raw.githubusercontent.com/pushtrain/pushtrain/main/docs/pushtrain.schema.json"

_DURATION: Final = "^(?=.)([0-9]+[dD])?([0-9]+[hH])?([0-9]+[mM])?([0-9]+[sS])?$"

Schema = dict[str, Any]

_TEXT: Final = r"\S"
_PATH: Final = r"^(?![/~]|[A-Za-z]:)(?!(.*/)?\.\.(/|$))[^\\\u0000-\u001f\u007f-\u009f]*$"


def json_schema() -> Schema:
    """The schema as a JSON document (draft 7, which Taplo and VS Code read)."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": URL,
        "title": "pushtrain.toml",
        "description": "The jobs that a git push starts. Reference: docs/pushtrain-toml.md.",
        "type": "object",
        "additionalProperties": False,
        "required": ["job"],
        "properties": {
            "job": {
                "description": "The jobs by name: `[job.train]`.",
                "type": "object",
                "minProperties": 1,
                "additionalProperties": False,
                "patternProperties": {_whole(jobfile.JOB_NAME.pattern): _job()},
            },
            "results": _results(),
        },
    }


def _job() -> Schema:
    return _object(
        "One job: a named recipe for training.",
        {
            "command": {
                "description": "What trains. Text runs as `bash -eo pipefail -c`, a list as it is. "
                "`${{ matrix.NAME }}` stands for a matrix value.",
                "oneOf": [_text(), {**_texts(), "minItems": 1}],
                "examples": ["python train.py", "python train.py --lr ${{ matrix.lr }}"],
            },
            "workdir": _path(
                "Folder in which the command runs, relative to the repository's root.", default="."
            ),
            "setup": _texts("Commands after the environment stands, before the clock of `timeout` starts."),
            "data": _data(),
            "environment": _environment(),
            "env": {
                "description": "Environment variables of the command. `${{ matrix.NAME }}` works here too.",
                "type": "object",
                "additionalProperties": False,
                "patternProperties": {_whole(f"(?!PUSHTRAIN(_|$)){names.VARIABLE.pattern}"): _scalar()},
            },
            "secrets": {
                **_texts(
                    "Names of secrets that the command gets as environment variables; never values.",
                    secretname.FORM.pattern,
                ),
                "examples": [["WANDB_API_KEY"]],
                "maxItems": MAX_SECRETS,
            },
            "network": {
                "description": "What it reaches at most (docs/network.md); the owner may allow less.",
                "enum": [network.value for network in JobNetwork],
            },
            "gpus": _number("GPUs that the run gets.", 0, 64, default=0, whole=True),
            "gpu_memory": _size("Memory of each GPU at least; with `gpu_share` the run's part of it."),
            "gpu_capability": {
                "description": 'CUDA compute capability of each GPU at least, such as "8.0".',
                "oneOf": [
                    {"type": "string", "pattern": _whole(r"[0-9]{1,2}(\.[0-9]{1,2})?")},
                    {"type": "number", "minimum": 0, "maximum": 99},
                ],
                "examples": ["8.0"],
            },
            "gpu_share": _flag("Whether others may use the GPU, too, each its own memory.", default=False),
            "launcher": {
                "description": "What starts the command: torchrun, once for each GPU. Else once.",
                "enum": [Launcher.TORCHRUN.value],
            },
            "priority": _number(
                "Hours by which its turn comes earlier (or, below 0, later).",
                -MOST_PRIORITY,
                MOST_PRIORITY,
                default=0,
                whole=True,
            ),
            "cpus": _number("CPU cores that the machine must have at least.", 0, 4096),
            "memory": _size("Main memory that a run may have there at least."),
            "labels": _texts(
                "Words that the executor's owner gave it; all must be there.", needs.WORD.pattern
            ),
            "timeout": _duration('How long training may last: seconds, or "30m", "1h30m", "2d".'),
            "preempt_signal": {
                "description": "What the command gets when its machine is wanted back (docs/checkpoints.md).",
                "enum": list(again.SIGNALS),
                "default": "SIGTERM",
            },
            "retry": _retry(),
            "checkpoint_to": {
                "description": 'Where its checkpoint goes, for other executors: "lfs" or a URL (s3, gs, az).',
                "type": "string",
                "pattern": _whole(f"lfs|{names.STORE.pattern}"),
            },
            "concurrency": {
                "description": "What becomes of an older push's run when a newer one starts the same job.",
                "enum": [each.value for each in Concurrency],
                "default": "queue",
            },
            "results": {
                **_texts("Globs of files to keep, relative to the repository's root.", _PATH),
                "examples": [["outputs/**", "*.png"]],
            },
            "min_isolation": {
                "description": "The weakest level of isolation that it may run at (docs/isolation.md).",
                "enum": [level.value for level in Isolation],
            },
            "submodules": _flag("Check out submodules too.", default=False),
            "lfs": _flag("Resolve Git LFS pointers.", default=True),
            "on": _triggers(),
            "matrix": _matrix(),
        },
        required=["command"],
    )


def _retry() -> Schema:
    times = _number("How often.", 0, again.MOST_RETRIES, whole=True)
    return _object(
        "How often the run is started again, by what its attempt failed of (docs/checkpoints.md).",
        {
            "lost": {**times, "description": "When the machine was lost.", "default": 2},
            "failed": {**times, "description": "When the command failed.", "default": 0},
            "exit_codes": {
                "description": "By exit code; such an end does not count as failed.",
                "type": "object",
                "additionalProperties": False,
                "patternProperties": {_whole("(?!85$)([1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5])"): times},
                "examples": [{"75": 3}],
            },
            "also": {
                **_texts("Reasons that count as failed and are tried again, too."),
                "items": {"enum": sorted(RETRIED)},
            },
            "backoff": _duration("Time before the first try; each further one waits twice as long."),
        },
    )


def _data() -> Schema:
    path = _path("Where it appears, relative to the repository's root.")
    url = {
        "description": "http, https, s3, gs, az or hf. Ending in `/` it is a folder, and needs `manifest`.",
        "type": "string",
        "pattern": _whole(needs.URL.pattern),
    }
    sha256 = {
        "description": "Digest of the file, or of the manifest. `pushtrain data add URL` measures it.",
        "type": "string",
        "pattern": _whole(needs.SHA256.pattern),
    }
    fetched = _object(
        "A file or folder that is fetched, verified and cached.",
        {
            "url": url,
            "sha256": sha256,
            "path": path,
            "unpack": _flag("Unpack a .tar, .tar.gz, .tar.xz, .tar.zst or .zip.", default=False),
            "manifest": _path("The file below a folder's URL that lists digests, as sha256sum writes them."),
        },
        required=["url", "path"],
    )
    fetched["allOf"] = [
        {
            "if": {"properties": {"url": {"pattern": "/$"}}},
            "then": {"required": ["manifest"]},
            "else": {"not": {"required": ["manifest"]}},
        }
    ]
    lent = _object(
        "A folder that the executor's owner lends read-only.",
        {"mount": {"type": "string", "pattern": _whole(needs.WORD.pattern)}, "path": path},
        required=["mount", "path"],
    )
    return {
        "description": "Data that appears in the work folder, read-only.",
        "type": "array",
        "items": {"oneOf": [fetched, lent]},
    }


def _environment() -> Schema:
    python = {"description": "Python version.", "type": "string", "pattern": _whole(needs.PYTHON.pattern)}
    ways = [
        ("uv", _path("Folder of pyproject.toml and uv.lock."), {"python": python, **_uv_options()}),
        ("requirements", _path("A requirements.txt."), {"python": python}),
        ("script", _path("A script with inline metadata (PEP 723)."), {"python": python}),
        ("conda", _path("An environment.yml."), {}),
        ("named", {"type": "string", "pattern": _whole(needs.WORD.pattern)}, {}),
    ]
    return {
        "description": 'What the command runs in. "auto" looks at the repository; "system" is plain Python.',
        "default": "auto",
        "oneOf": [
            {"enum": ["auto", "system", "uv"]},
            *(_object(f"By {way}.", {way: value, **more}, required=[way]) for way, value, more in ways),
        ],
    }


def _uv_options() -> dict[str, Schema]:
    return {
        "groups": _texts("Dependency groups beside the default ones."),
        "extras": _texts("The project's optional dependencies."),
    }


def _triggers() -> Schema:
    words = {"enum": ["push", "manual"]}
    patterns = {**_texts(), "minItems": 1}
    filters = {
        "branches": "Branches that start it.",
        "branches-ignore": "Branches that do not; not together with `branches`.",
        "tags": "Tags that start it.",
        "tags-ignore": "Tags that do not; not together with `tags`.",
        "paths": "At least one changed file must match.",
        "paths-ignore": "At least one changed file must not match; not together with `paths`.",
    }
    push = _object(
        "Filters as in GitHub Actions: `*`, `**`, `?`, `+`, `[]`, and `!` to take back.",
        {key: {"description": text, **patterns} for key, text in filters.items()},
    )
    push["allOf"] = [{"not": {"required": [key, f"{key}-ignore"]}} for key in ("branches", "tags", "paths")]
    return {
        "description": "What starts the job; without it a push to any branch, and a person.",
        "oneOf": [
            words,
            {**_texts(), "items": words, "minItems": 1},
            _object(
                "Pushes, and whether a person may start it.",
                {
                    "push": {"oneOf": [{"type": "boolean"}, push]},
                    "manual": _flag("Whether `pushtrain send --job` may start it.", default=True),
                },
            ),
        ],
    }


def _matrix() -> Schema:
    cell = {"type": "object", "minProperties": 1, "additionalProperties": _scalar()}
    return {
        "description": "One run for each combination of the axes, as in GitHub Actions.",
        "type": "object",
        "properties": {
            "include": {
                "description": "Each entry extends the cells it does not contradict, or adds one.",
                "type": "array",
                "items": cell,
            },
            "exclude": {"description": "Cells to leave out.", "type": "array", "items": cell},
            "max_parallel": _number("Cells that run at once.", 1, matrix.MAX_CELLS, whole=True),
        },
        "additionalProperties": {
            "description": "An axis: its values.",
            "type": "array",
            "items": _scalar(),
            "minItems": 1,
            "uniqueItems": True,
        },
    }


def _results() -> Schema:
    branch = {
        "description": 'Branch for results, or "same" for the pushed one.',
        "type": "string",
        "pattern": _whole(names.BRANCH.pattern),
        "default": "pushtrain/results",
    }
    return _object(
        "Where the results of all jobs go.",
        {
            "branch": branch,
            "repository": {
                "description": "Key of another repository: `github.com/octo/results`.",
                "type": "string",
                "pattern": _whole(names.REPOSITORY.pattern),
                "maxLength": 400,
            },
            "path": _path("Folder in that branch."),
            "artifacts": {
                "description": 'Where files over the limits go: "lfs", or a URL (s3, gs, az).',
                "type": "string",
                "pattern": _whole(f"lfs|{names.STORE.pattern}"),
            },
        },
    )


def _object(description: str, properties: dict[str, Schema], required: list[str] | None = None) -> Schema:
    return {
        "description": description,
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        **({"required": required} if required else {}),
    }


def _text(pattern: str = _TEXT) -> Schema:
    return {"type": "string", "pattern": pattern}


def _texts(description: str = "", pattern: str = "") -> Schema:
    items = _text(_whole(pattern)) if pattern else _text()
    return {
        **({"description": description} if description else {}),
        "type": "array",
        "items": items,
    }


def _path(description: str, **more: object) -> Schema:
    return {"description": description, "type": "string", "pattern": _PATH, "minLength": 1, **more}


def _number(description: str, least: float, most: float, *, whole: bool = False, **more: object) -> Schema:
    kind = "integer" if whole else "number"
    return {"description": description, "type": kind, "minimum": least, "maximum": most, **more}


def _size(description: str) -> Schema:
    return {
        "description": f'{description} "8GB" (decimal), "8GiB" (binary), or bytes.',
        "oneOf": [
            {"type": "integer", "enum": [0]},
            {"type": "integer", "minimum": 10**6, "maximum": MAX_INTEGER},
            {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?([kKMGT]i?)?B$"},
        ],
        "examples": ["8GB"],
    }


def _duration(description: str) -> Schema:
    return {
        "description": description,
        "oneOf": [
            {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_DURATION},
            {"type": "string", "pattern": _DURATION},
        ],
        "examples": ["30m", "1h30m"],
    }


def _flag(description: str, *, default: bool) -> Schema:
    return {"description": description, "type": "boolean", "default": default}


def _scalar() -> Schema:
    return {"type": ["string", "number", "boolean"]}


def _whole(pattern: str) -> str:
    return f"^({pattern})$"
