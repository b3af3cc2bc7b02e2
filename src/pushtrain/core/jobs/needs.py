"""What a job needs before its command can start: data, an environment, resources. Read from its table."""

import re
from collections.abc import Callable
from typing import Final

from pushtrain.core.text.forms import Wrong, inside, kind, listed, size
from pushtrain.core.text.reading import Table
from pushtrain.core.values.isolation import Isolation, JobNetwork
from pushtrain.core.values.jobspec import (
    CAPABILITY,
    DataSource,
    EnvironmentKind,
    EnvironmentSpec,
    Launcher,
    Resources,
)

WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")
PYTHON: Final = re.compile(r"[0-9]+(\.[0-9]+){0,2}")
URL: Final = re.compile(r"(https?|s3|gs|az|hf)://[!-\"$-.0->A-~]+(/[!-~]*)?")

_KINDS: Final = {
    "uv": EnvironmentKind.UV,
    "requirements": EnvironmentKind.REQUIREMENTS,
    "script": EnvironmentKind.SCRIPT,
    "conda": EnvironmentKind.CONDA,
    "named": EnvironmentKind.NAMED,
}


def resources(table: Table) -> Resources:
    """`gpus`, `gpu_memory`, `gpu_capability`, `gpu_share`, `cpus`, `memory` and `labels`."""
    labels = table.texts("labels", example="a100")
    for label in labels:
        if not WORD.fullmatch(label):
            table.wrong(
                "labels", label, "is not a label", "Use letters, digits, `.`, `_` and `-`, at most 63."
            )
    found = Resources(
        gpus=int(table.number("gpus", most=64)),
        gpu_memory=table.read("gpu_memory", size, 0),
        gpu_capability=_capability(table),
        gpu_share=table.flag("gpu_share", default=False),
        cpus=table.number("cpus", most=4096, whole=False),
        memory=table.read("memory", size, 0),
        labels=labels,
    )
    if found.gpu_memory and not found.gpus and "gpus" not in table.data:
        table.wrong(
            "gpu_memory", table.data["gpu_memory"], "asks for memory of no GPU", "Write `gpus = 1` too."
        )
    if found.gpu_capability and not found.gpus and "gpus" not in table.data:
        asked = table.data["gpu_capability"]
        table.wrong("gpu_capability", asked, "asks something of no GPU", "Write `gpus = 1` too.")
    if found.gpu_share and not (found.gpus == 1 and found.gpu_memory):
        mend = 'Write `gpus = 1` and what it uses at most, as in `gpu_memory = "6GB"`.'
        table.wrong("gpu_share", table.data["gpu_share"], "needs one GPU and its memory", mend)
    return found


def _capability(table: Table) -> str:
    """`gpu_capability`: text such as "8.0"; TOML's number 8.0 is understood, too."""
    value = table.take("gpu_capability")
    if value is None:
        return ""
    text = str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    text = f"{text}.0" if isinstance(text, str) and text.isascii() and text.isdigit() else text
    if isinstance(text, str) and text and re.fullmatch(CAPABILITY, text):
        return text
    table.wrong("gpu_capability", value, "is no compute capability", 'Write it as NVIDIA does, as in "8.0".')
    return ""


def launcher(table: Table, resources: Resources) -> Launcher:
    """`launcher`."""
    value = table.take("launcher")
    if value is None:
        return Launcher.NONE
    if value != Launcher.TORCHRUN:
        table.wrong("launcher", value, "is no launcher", 'Write "torchrun", or leave it out.')
    elif not resources.gpus:
        table.wrong(
            "launcher", value, "starts a process for each GPU, and there is none", "Write `gpus = 2`."
        )
    else:
        return Launcher.TORCHRUN
    return Launcher.NONE


def isolation(table: Table) -> Isolation | None:
    """`min_isolation`."""
    value = table.take("min_isolation")
    if value is None:
        return None
    if isinstance(value, str) and value in set(Isolation):
        return Isolation(value)
    mend = f"Write one of {listed(list(Isolation))}."
    table.wrong("min_isolation", value, "is not a level of isolation", mend)
    return None


def network(table: Table) -> JobNetwork | None:
    """`network`."""
    value = table.take("network")
    if value is None or value in set(JobNetwork):
        return None if value is None else JobNetwork(str(value))
    table.wrong("network", value, "is no network", f"Write one of {listed(list(JobNetwork))}.")
    return None


def data(table: Table) -> tuple[DataSource, ...]:
    """The entries of `data`."""
    mend = 'Write `data = [{url = "https://…", sha256 = "…", path = "data/train.csv"}]`.'
    sources = []
    for entry in table.tables("data", mend):
        before = entry.notes.count
        source = _source(entry)
        entry.end()
        if entry.notes.count == before:
            sources.append((entry, source))
    for at, (entry, source) in enumerate(sources):
        for _, other in sources[:at]:
            if f"{source.path}/".startswith(f"{other.path}/") or f"{other.path}/".startswith(
                f"{source.path}/"
            ):
                problem = "is taken twice" if source.path == other.path else f"overlaps with `{other.path}`"
                entry.wrong("path", source.path, problem, "Give each entry a path of its own.")
                break
    return tuple(source for _, source in sources)


def _source(entry: Table) -> DataSource:
    url, mount = entry.read("url", _url, ""), entry.read("mount", _word, "")
    path = entry.read("path", inside, "")
    sha256 = entry.read("sha256", _sha256, None)
    manifest = entry.read("manifest", inside, "")
    unpack = entry.flag("unpack", default=False)
    if ("url" in entry.data) == ("mount" in entry.data):
        mend = "Write `url` for what is fetched, or `mount` for a folder that the executor's owner lends."
        entry.notes.add(entry.path, None, "needs exactly one of `url` and `mount`", mend)
    if "path" not in entry.data:
        mend = 'Write where it appears in the work folder, as in `path = "data/train.csv"`.'
        entry.notes.add(entry.path, None, "has no `path`", mend)
    for key in ("sha256", "manifest", "unpack"):
        if mount and key in entry.data:
            entry.wrong(
                key,
                entry.data[key],
                "does not go with `mount`",
                "A lent folder is used as it is; leave it out.",
            )
    if manifest and unpack:
        entry.wrong(
            "unpack",
            unpack,
            "does not go with `manifest`",
            "Files of a folder are not unpacked; leave it out.",
        )
    if url.endswith("/") and "manifest" not in entry.data:
        mend = (
            'Name the file in it that lists digests, as in `manifest = "SHA256SUMS"`, or the URL of one file.'
        )
        entry.wrong("url", url, "names a folder", mend)
    if manifest and url and not url.endswith("/"):
        entry.wrong(
            "manifest", manifest, "goes with a folder only", "End the URL with `/`, or leave `manifest` out."
        )
    return DataSource(
        url=url, mount=mount, sha256=sha256, path=path or "data", unpack=unpack, manifest=manifest
    )


def _url(value: object) -> str:
    if not isinstance(value, str) or not URL.fullmatch(value):
        if isinstance(value, str) and re.match(r"[a-z0-9]+://[^/]*@", value):
            mend = "Leave them out: the file is in Git. The executor's owner sets credentials."
            raise Wrong("holds a user or a password", mend)
        raise Wrong(
            "is not a URL of a known kind",
            "Use http, https, s3, gs, az or hf, as in `https://host/file.csv`.",
        )
    return value


def _word(value: object) -> str:
    if not isinstance(value, str) or not WORD.fullmatch(value):
        raise Wrong("is not a name", "Use letters, digits, `.`, `_` and `-`, at most 63.")
    return value


def _sha256(value: object) -> str:
    if not isinstance(value, str) or not SHA256.fullmatch(value):
        raise Wrong(
            "is not a SHA-256 digest",
            "Write its 64 hexadecimal digits; `pushtrain data add URL` measures it.",
        )
    return value.lower()


def environment(table: Table) -> EnvironmentSpec:
    """`environment`, in words or as a table."""
    value = table.take("environment")
    mend = (
        'Write "auto", "system" or "uv", or one of `{uv = "."}`, `{requirements = "requirements.txt"}`, '
        '`{script = "train.py"}`, `{conda = "environment.yml"}`, `{named = "torch-2.5"}`.'
    )
    if value is None:
        return EnvironmentSpec()
    if isinstance(value, str):
        if value not in {"auto", "system", "uv"}:
            table.wrong("environment", value, "is not an environment", mend)
            return EnvironmentSpec()
        return EnvironmentSpec(kind=EnvironmentKind(value), file="." if value == "uv" else "")
    if not isinstance(value, dict):
        table.wrong("environment", value, f"is {kind(value)}, not text or a table", mend)
        return EnvironmentSpec()
    below = Table(table.notes, (*table.path, "environment"), value)
    chosen = [key for key in _KINDS if key in value]
    files = {key: below.read(key, _path_or_name(key), "") for key in _KINDS}
    python = below.read("python", _python, "")
    groups, extras = below.texts("groups", example="train"), below.texts("extras", example="cuda")
    below.end({"pip": "Did you mean `requirements`?", "file": mend})
    if len(chosen) != 1:
        problem = f"names {listed(chosen)} at once" if chosen else "names no way to build it"
        table.wrong("environment", None, problem, mend)
        return EnvironmentSpec()
    way = chosen[0]
    for key, fit in (("groups", "uv"), ("extras", "uv"), ("python", "uv requirements script")):
        if key in value and way not in fit.split():
            below.wrong(key, value[key], f"does not go with `{way}`", f"It goes with {listed(fit.split())}.")
    named = way == "named"
    return EnvironmentSpec(
        kind=_KINDS[way],
        file="" if named else files[way],
        name=files[way] if named else "",
        python=python,
        groups=groups,
        extras=extras,
    )


def _path_or_name(key: str) -> Callable[[object], str]:
    return _word if key == "named" else lambda value: inside(value, root=key == "uv")


def _python(value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise Wrong("is a number, and 3.10 would read as 3.1", f'Write it in quotes: `python = "{value}"`.')
    if not isinstance(value, str) or not PYTHON.fullmatch(value):
        raise Wrong("is not a Python version", 'Write it as in `python = "3.12"`.')
    return value
