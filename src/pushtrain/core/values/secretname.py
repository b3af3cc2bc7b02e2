"""Which names a secret may have: capitals, as environment variables have, but none that programs obey.

Capitals tell a name from a value: whoever writes a token where its name belongs is told so. A secret becomes
a variable of its job's command. One called `LD_PRELOAD` or `PATH` would change what runs instead of what it
knows, so such names are refused wherever one could be said: in `pushtrain.toml`, in `settings.toml`, by
`pushtrain secret set`, and in a signed command.
"""

import re
from typing import Annotated, Final

from pydantic import AfterValidator

LONGEST: Final = 100
FORM: Final = re.compile(rf"[A-Z_][A-Z0-9_]{{0,{LONGEST - 1}}}")
_OURS: Final = re.compile(
    "HOME|TMPDIR|CI|HF_HOME|TORCH_HOME|XDG_CACHE_HOME|GITHUB_(SHA|REF|REPOSITORY)|VIRTUAL_ENV"
    "|(CUDA|NVIDIA)_VISIBLE_DEVICES|PUSHTRAIN.*"
)
"""Set by pushtrain itself."""
_OBEYED: Final = re.compile(
    "PATH|SHELL|IFS|ENV|BASH_ENV|BASHOPTS|SHELLOPTS|PS4|PROMPT_COMMAND|TZ|LANG|LANGUAGE|USER|LOGNAME|PWD"
    "|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|NODE_OPTIONS|PERL5(LIB|OPT)|RUBYOPT|GCONV_PATH"
    "|LOCPATH|NLSPATH|HOSTALIASES|RESOLV_HOST_CONF|MALLOC_TRACE|TERMINFO|TERMCAP"
    "|(LD_|DYLD_|GLIBC_|LC_|PYTHON|GIT_|CONDA_|BASH_FUNC_).*"
)
"""Obeyed by the loader, by shells, by interpreters or by git."""


def is_name(name: str) -> bool:
    """Whether it has the form of a name, whatever it names."""
    return bool(FORM.fullmatch(name))


def problem(name: str) -> str:
    """Why a secret cannot have this name, to follow it in a sentence; empty when it can."""
    if not is_name(name):
        return "is not a variable's name in capitals"
    if _OURS.fullmatch(name):
        return "is a variable that pushtrain sets itself"
    if _OBEYED.fullmatch(name):
        return "is a variable that changes how programs run"
    return ""


def _checked(name: str) -> str:
    if why := problem(name):
        raise ValueError(f"`{name}` {why}" if is_name(name) else why)
    return name


SecretName = Annotated[str, AfterValidator(_checked)]
