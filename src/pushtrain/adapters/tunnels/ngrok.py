"""The tunnel of ngrok, through its official SDK (the extra `pushtrain[ngrok]`).

The SDK would reconnect by itself, but it goes on telling the old URL when it was bound to a new one. So a
lost session is given up: its disconnection handler raises, which ends it, and whoever keeps the tunnel opens
a fresh one and reads the fresh URL. The SDK has no timeout for connecting, and does not tell that the other
side has fallen silent; both are here. Its errors are bare ValueErrors with a code of ngrok's inside; they
become sentences with a mend, and its own text is repeated only with the authtoken taken out.
https://ngrok.com/docs/errors/
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pushtrain import __version__
from pushtrain.adapters.tunnels import checked
from pushtrain.adapters.tunnels.authtoken import Found, find
from pushtrain.core.errors import ConfigError, PushtrainError, Unreachable
from pushtrain.core.settings import ExecutorSettings

_TIMEOUT: Final = 15.0
"""Seconds that a session and its endpoint may take to come up."""
_FAREWELL: Final = 2.0
"""Seconds for a polite end; then the connection is dropped."""
_HEARTBEAT: Final = 10
"""Seconds between the SDK's signs of life; they are no requests."""
_TOLERANCE: Final = 15
"""Seconds without an answer to one before the session counts as dead."""

_TOKEN_PAGE: Final = "https://dashboard.ngrok.com/get-started/your-authtoken"  # noqa: S105  a page
_CODE: Final = re.compile(r"ERR_NGROK_(\d+)")


@dataclass(frozen=True, slots=True)
class Trouble:
    """What one of ngrok's codes means."""

    text: str
    mend: str
    lasts: bool = True
    """Whether trying again soon is of no use."""


_COPY: Final = f"Copy it anew from {_TOKEN_PAGE} into NGROK_AUTHTOKEN or ngrok.yml."
_OWN: Final = "Choose one of https://dashboard.ngrok.com/domains, or leave `--domain` out."
_PLAN: Final = "See https://dashboard.ngrok.com/usage; the ssh tunnel has no such limit (docs/tunnels.md)."

TROUBLES: Final = {
    105: Trouble("the authtoken is not of ngrok's form", _COPY),
    106: Trouble("the authtoken is one of ngrok's version 1", _COPY),
    107: Trouble("the authtoken is not valid: it was reset or revoked, or its user left the team", _COPY),
    108: Trouble(
        "the account's limit of agents at the same time is reached",
        "Stop one of https://dashboard.ngrok.com/agents, or choose another tunnel (docs/tunnels.md).",
        lasts=False,
    ),
    120: Trouble(
        "the account does not allow this version of ngrok's SDK any more", "`pip install --upgrade ngrok`"
    ),
    121: Trouble("this version of ngrok's SDK is too old", "`pip install --upgrade ngrok`"),
    319: Trouble("the domain is not reserved for this account", _OWN),
    320: Trouble("the domain is reserved for another account", _OWN),
    334: Trouble(
        "an endpoint with this URL is already online",
        "Stop the other agent, or wait for ngrok to notice that an old one is gone.",
        lasts=False,
    ),
    727: Trouble("the account has used up its requests for this month", _PLAN),
    3200: Trouble(
        "the endpoint is offline", "Is the executor running, and is this still its address?", lasts=False
    ),
    4018: Trouble("ngrok wants an account and its authtoken", f"Sign up, then copy it from {_TOKEN_PAGE}."),
    8012: Trouble(
        "the tunnel is up, but the executor behind it does not answer",
        "Is the executor running on that port?",
        lasts=False,
    ),
}
"""ngrok's codes that our users meet; 3200, 8012 and 727 are what callers get to see."""


class Ngrok:
    """An endpoint at ngrok; fits `ports.Tunnel`.

    Args:
        settings: `domain`, `ngrok_server` and `ngrok_root_cas` are used.
        token: Where the authtoken comes from; asked anew each time, so that a mended file counts at once.
        timeout: Seconds for coming up.
        heartbeat: Seconds between signs of life, and seconds to wait for one.

    Raises:
        ConfigError: The SDK is not installed, or there is no authtoken.
    """

    def __init__(
        self,
        settings: ExecutorSettings,
        *,
        token: Callable[[], Found | None] = find,
        timeout: float = _TIMEOUT,
        heartbeat: tuple[int, int] = (_HEARTBEAT, _TOLERANCE),
    ) -> None:
        self._settings = settings
        self._find = token
        self._timeout = timeout
        self._heartbeat = heartbeat
        self._session: Any = None
        self._listener: Any = None
        self._lost: asyncio.Future[str] | None = None
        self._beat = 0.0
        self._sdk = _sdk()
        self._token()

    async def open(self, host: str, port: int) -> str:
        """Bring an endpoint up and give the URL that ngrok bound it to.

        Raises:
            ConfigError, Unreachable: As the port says.
        """
        token = await asyncio.to_thread(self._token)
        try:
            async with asyncio.timeout(self._timeout):
                if self._session is None or self._lost is None or self._lost.done():
                    self._session = await self._builder(token).connect()
                endpoint = self._session.http_endpoint()
                if self._settings.domain:
                    endpoint.domain(self._settings.domain)
                where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
                self._listener = await endpoint.listen_and_forward(where)
                return checked(str(self._listener.url()), "What ngrok calls its URL")
        except TimeoutError:
            failure: PushtrainError = Unreachable(
                f"ngrok did not answer within {self._timeout:g} s.",
                mend="Check this machine's network, and https://status.ngrok.com.",
            )
        except (ValueError, RuntimeError) as error:
            failure = explained(" ".join(map(str, error.args)), token)
        raise failure  # out here, so that the SDK's text, which may hold the token, does not come along

    async def lost(self) -> str:
        """Wait until the session is down, or the other side has fallen silent; why."""
        if self._lost is None:
            return "it was never open"
        while (left := self._beat + sum(self._heartbeat) - self._lost.get_loop().time()) > 0:
            await asyncio.wait((self._lost,), timeout=left)
            if self._lost.done():
                return self._lost.result()
        return f"no sign of life from ngrok for {sum(self._heartbeat)} s"

    async def close(self) -> None:
        """Take the endpoint offline and end the session.

        The SDK ends a session by falling silent; it hangs up only once the other side does, or with the
        process. So a session whose endpoint was refused is kept for the next try: accounts may have few.
        """
        listener, self._listener = self._listener, None
        if listener is None:
            return
        session, self._session = self._session, None
        with contextlib.suppress(ValueError, RuntimeError, TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await listener.close()
                await session.close()

    def _token(self) -> str:
        found = self._find()
        if found is None:
            raise ConfigError(
                "There is no authtoken for ngrok: not in NGROK_AUTHTOKEN, ngrok.yml or the keyring.",
                mend=f"Copy it from {_TOKEN_PAGE} into NGROK_AUTHTOKEN, or choose `--tunnel none`.",
            )
        return found.token

    def _builder(self, token: str) -> Any:
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[str] = loop.create_future()
        self._lost = lost

        def gone(address: str, why: str) -> None:  # called in a thread of the SDK
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_settle, lost, f"{address}: {why}".replace(token, "…"))
            raise ConnectionAbortedError("a fresh session is opened instead")

        def beat(_: int) -> None:  # likewise, with each answered sign of life
            self._beat = loop.time()

        beat(0)
        builder = self._sdk.SessionBuilder().authtoken(token).client_info("pushtrain", __version__)
        builder.handle_disconnection(gone).handle_heartbeat(beat)
        builder.heartbeat_interval(self._heartbeat[0]).heartbeat_tolerance(self._heartbeat[1])
        if self._settings.ngrok_server:
            builder.server_addr(self._settings.ngrok_server)
        if self._settings.ngrok_root_cas:
            builder.root_cas(self._settings.ngrok_root_cas)
        return builder


def explained(text: str, token: str = "") -> PushtrainError:
    """The SDK's complaint as an error of ours; without the token, should it be repeated there."""
    code = _CODE.search(text)
    trouble = TROUBLES.get(int(code[1])) if code else None
    if code is None or trouble is None:
        told = " ".join((text.replace(token, "…") if token else text).split())[:300]
        more = f"https://ngrok.com/docs/errors/err_ngrok_{code[1]}" if code else "https://status.ngrok.com"
        return Unreachable(
            f"ngrok opened no tunnel: {told}.", mend=f"Check this machine's network, and {more}."
        )
    kind = ConfigError if trouble.lasts else Unreachable
    return kind(f"ngrok opened no tunnel: {trouble.text} ({code[0]}).", mend=trouble.mend)


def _settle(lost: asyncio.Future[str], why: str) -> None:
    if not lost.done():
        lost.set_result(why)


def _sdk() -> Any:
    try:
        import ngrok
    except ImportError:
        raise ConfigError(
            "The ngrok tunnel needs ngrok's SDK, which is not installed.",
            mend="`pip install 'pushtrain[ngrok]'`, or choose another tunnel (docs/tunnels.md).",
        ) from None
    # It tells each step to Python's logging; we say one sentence for each change instead.
    logging.getLogger("ngrok").setLevel(logging.WARNING)
    return ngrok
