"""GitHub's webhook: raw bytes in, a Push out.

Form and signature as GitHub documents them:
https://docs.github.com/en/webhooks/webhook-events-and-payloads#push and
https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries. GitHub Enterprise Server and
every host that speaks the same form (the demo's does) are told apart by the address in the payload.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from pushtrain.core.errors import UsageError
from pushtrain.core.text import strictjson
from pushtrain.core.values.push import Push

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")
_DELIVERY: Final = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_LONGEST_REF: Final = 1000
_NUMBERS: Final = 10**19
_PORTS: Final = {"https": 443, "http": 80}


class GitHub:
    """What GitHub sends when somebody pushes; fits `ports.GitHost`."""

    def verify(self, headers: Mapping[str, str], body: bytes, secret: bytes) -> bool:
        """Whether `X-Hub-Signature-256` is the HMAC of the raw bytes; compared in constant time.

        An empty secret verifies nothing.
        """
        given = headers.get("x-hub-signature-256", "").encode("utf-8", "replace")
        wanted = b"sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest().encode()
        return bool(secret) and hmac.compare_digest(given, wanted)

    def parse(self, headers: Mapping[str, str], body: bytes) -> Push | None:
        """The push, or None for `ping` and every other event.

        Raises:
            UsageError: The payload is not of GitHub's form.
        """
        if headers.get("x-github-event", "") != "push":
            return None
        delivery = headers.get("x-github-delivery", "")
        if not _DELIVERY.fullmatch(delivery):
            raise _malformed("the header X-GitHub-Delivery is missing or odd")
        event = _document(headers.get("content-type", ""), body)
        repository = _field(event, "repository", dict)
        number = repository.get("id")
        ref = _field(event, "ref", str)
        if not ref.startswith("refs/") or len(ref) > _LONGEST_REF or not _text(ref):
            raise _malformed(f"`ref` is {ref[:80]!r}, not a full ref")
        name = _field(repository, "full_name", str)
        if not _NAME.fullmatch(name) or {".", ".."} & set(name.split("/")):
            raise _malformed(f"`repository.full_name` is {name[:80]!r}, not OWNER/NAME")
        return Push(
            host=_host(_field(repository, "html_url", str)),
            repository=name,
            repository_id=str(number) if type(number) is int and 0 <= number < _NUMBERS else "",
            ref=ref,
            before=_commit(event, "before"),
            after=_commit(event, "after"),
            pusher=_pusher(event.get("pusher")),
            delivery=delivery,
        )


def _document(content_type: str, body: bytes) -> dict[str, Any]:
    kind = content_type.partition(";")[0].strip().lower()
    text = body
    if kind == "application/x-www-form-urlencoded":
        try:
            given = parse_qs(body.decode("ascii"), strict_parsing=True, max_num_fields=10, errors="strict")
        except ValueError as error:
            raise _malformed("the body is not a form") from error
        if len(given.get("payload", ())) != 1:
            raise _malformed("the form has no field `payload`")
        text = given["payload"][0].encode()
    elif kind != "application/json":
        raise _malformed(f"the content type is {kind[:80] or 'missing'!r}")
    try:
        event = strictjson.loads(text, any_text=True)
    except UsageError as error:
        raise _malformed("the body is not JSON of one meaning") from error
    if not isinstance(event, dict):
        raise _malformed("the body is not a JSON object")
    return event


def _field(event: Mapping[str, Any], name: str, kind: type) -> Any:
    value = event.get(name)
    if not isinstance(value, kind):
        raise _malformed(f"`{name}` is missing or of the wrong type")
    return value


def _commit(event: Mapping[str, Any], name: str) -> str:
    value = str(_field(event, name, str))
    if not _COMMIT.fullmatch(value):
        raise _malformed(f"`{name}` is {value[:80]!r}, not a commit id")
    return value


def _pusher(value: object) -> str:
    """Who pushed, for people; empty when it does not say."""
    name = value.get("name") if isinstance(value, dict) else None
    return name[:200] if isinstance(name, str) and _text(name) else ""


def _text(value: str) -> bool:
    """Whether it can be shown and stored: JSON may hold half characters and control codes."""
    return value.isprintable()


def _host(url: str) -> str:
    """The host of a page's address, with its port where that is not the scheme's own."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _malformed("`repository.html_url` is not a URL") from error
    if parts.scheme not in _PORTS or not host or not re.fullmatch(r"[a-z0-9.-]+", host):
        raise _malformed("`repository.html_url` is not a URL")
    return host if port in {None, _PORTS[parts.scheme]} else f"{host}:{port}"


def _malformed(why: str) -> UsageError:
    return UsageError(
        f"This is not a push as GitHub sends it: {why}.",
        mend="Set the webhook's content type to application/json and its events to `push`.",
    )
