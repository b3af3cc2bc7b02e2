"""Commit statuses: whose token for which host, and the herald that tells while an executor is open."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from pushtrain.adapters.hosts.github_api import GitHubApi, host_of
from pushtrain.adapters.hosts.github_repository import GitHubRepositories
from pushtrain.adapters.hosts.github_status import GitHubStatuses
from pushtrain.core.errors import ConfigError
from pushtrain.core.settings import Settings
from pushtrain.executor.results.herald import Herald
from pushtrain.executor.service import ExecutorService

log = logging.getLogger(__name__)

GITHUB: Final = "github.com"
TOKEN: Final = "PUSHTRAIN_HOST_TOKEN"  # noqa: S105  the variable's name
GITHUB_TOKENS: Final = ("GITHUB_TOKEN", "GH_TOKEN")
"""What others set for github.com; they are sent nowhere else."""


@dataclass(frozen=True, slots=True)
class Statuses:
    """What is known of commit statuses before anything is asked."""

    host: str
    """The Git host that would be told."""
    repositories: Sequence[str]
    """Keys of the served repositories that are there."""
    variable: str
    """The environment variable with the token; empty: there is none."""
    client: GitHubStatuses | None
    """None without a token, and where nothing is served on that host."""


def statuses(settings: Settings, environ: Mapping[str, str] = os.environ) -> Statuses:
    """Who is told, with which token.

    Raises:
        ConfigError: The API's address or the token is not of its form.
    """
    api = settings.executor.status_api
    host = host_of(api)
    variable = _token(host, environ)
    client = GitHubStatuses(api, environ[variable].strip()) if variable else None
    keys = [repository.key for repository in settings.repositories]
    there = [key for key in keys if key.split("/")[0].lower() == host]
    return Statuses(host, there, variable, client if there else None)


def repositories(settings: Settings, environ: Mapping[str, str] = os.environ) -> GitHubRepositories:
    """Asks the Git host which number a repository has, with the token of commit statuses where there is one.

    Raises:
        ConfigError: The API's address or the token is not of its form.
    """
    api = settings.executor.status_api
    variable = _token(host_of(api), environ)
    return GitHubRepositories(GitHubApi(api, environ[variable].strip() if variable else ""))


def _token(host: str, environ: Mapping[str, str]) -> str:
    """The variable with a token for this host; empty: there is none."""
    names = (TOKEN, *GITHUB_TOKENS) if host == GITHUB else (TOKEN,)
    return next((name for name in names if environ.get(name, "").strip()), "")


@asynccontextmanager
async def telling(
    settings: Settings, service: ExecutorService, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[None]:
    """Tell the Git host how the executor's runs stand while the block runs; without a token, say so once."""
    try:
        found = statuses(settings, environ)
    except ConfigError as error:
        log.warning("commit statuses are off: %s", error)
        yield
        return
    if found.client is None:
        if found.repositories:
            log.info("commit statuses are off: no token for %s in %s", found.host, TOKEN)
        yield
        return
    herald = Herald(service.store, found.client, executor=settings.executor.name)
    leave = service.subscribe(herald.hear)
    task = asyncio.create_task(herald.run(), name="herald")
    log.info("commit statuses: told to %s, with the token in %s", found.host, found.variable)
    try:
        yield
    finally:
        leave()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        found.client.close()
