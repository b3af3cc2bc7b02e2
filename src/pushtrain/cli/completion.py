"""`pushtrain completion`: completion for bash, zsh and fish."""

from typing import Annotated, Literal

from cyclopts import Parameter

from pushtrain.cli.screen import render


def completion(
    shell: Literal["bash", "zsh", "fish"] | None = None,
    /,
    *,
    install: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Print the completion script of a shell, or install it for the current user.

    `eval "$(pushtrain completion bash)"` tries it in this shell; `pushtrain completion --install` keeps it.

    Args:
        shell: Which shell; the current one where it can be told.
        install: Write it to where the shell looks, and say where that is.
    """
    from pushtrain.cli.app import build

    app = build()
    if install:
        path = app.install_completion(shell=shell)
        render.say(f"Installed {path}; a new shell has it.")
        return
    render.plain(app.generate_completion(shell=shell))
