"""The one place where a data URL becomes a connection: the schemes there are, and who answers them.

http and https go by `plumbing.data.web`, `hf://` is another way to write an https URL of Hugging Face. An
object store is asked by `plumbing.data.cloud` with this machine's credentials where the terms lend them, and
as everybody may, by https and without any, where they do not. Anything else (`file:`, `ftp:`) is refused.
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote

import urllib3

from pushtrain.core.errors import DataError
from pushtrain.core.owner.lent import bucket
from pushtrain.core.text.weburl import shown
from pushtrain.plumbing.data.cloud import SCHEMES, Cloud
from pushtrain.plumbing.data.download import Opener
from pushtrain.plumbing.data.terms import Terms
from pushtrain.plumbing.data.web import Web, check

PUBLIC: Final = {
    "s3": "https://s3.{region}amazonaws.com/{bucket}/{key}",
    "gs": "https://storage.googleapis.com/{bucket}/{key}",
}
"""Where everybody may read a public object: the vendors' addresses, whatever the environment says."""

_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]")


class Doors:
    """Connections for one fetch, kept open between its files.

    Args:
        terms: Whom it may ask, and whose credentials it may use.
        environ: This machine's environment, for HF_TOKEN and HF_ENDPOINT.
        workers: How many threads will use it at once.
    """

    def __init__(self, terms: Terms, environ: Mapping[str, str], *, workers: int) -> None:
        self._environ = environ
        self._terms = terms
        self._web = Web(outward=terms.outward, workers=workers)
        self._cloud = Cloud()

    def opener(self, url: str) -> Opener:
        """How to get the file at this URL.

        Raises:
            DataError: It is of no kind that we fetch.
        """
        scheme = url.partition("://")[0]
        if scheme == "hf":
            token = self._environ.get("HF_TOKEN", "") if self._terms.lends(url) else ""
            return self._web.opener(rewrite(url, self._environ), token=token)
        if scheme in SCHEMES:
            return self._object(url)
        check(url)
        return self._web.opener(url)

    def close(self) -> None:
        """Close what is open."""
        self._web.close()

    def _object(self, url: str) -> Opener:
        scheme = url.partition("://")[0]
        try:
            name, key = bucket(url)
        except ValueError as error:
            raise DataError(f"{shown(url)} {error}.", mend="Write s3://BUCKET/PATH.") from None
        if self._terms.lends(url):
            return self._cloud.opener(scheme, name, key)
        if scheme not in PUBLIC:  # which account a container belongs to, only the owner's environment knows
            raise DataError(
                f"{shown(url)} lies in an account of the executor's owner, who has not listed it.",
                mend=f"Have the owner add `{scheme}://{name}` to `data_credentials` of `[rules]`.",
            )
        return self._web.opener(
            _public(scheme, name, key), moved=lambda answer: _elsewhere(answer, name, key)
        )


def _public(scheme: str, name: str, key: str, region: str = "") -> str:
    return PUBLIC[scheme].format(region=region and f"{region}.", bucket=name, key=quote(key))


def _elsewhere(answer: urllib3.BaseHTTPResponse, name: str, key: str) -> str:
    """The address in its own region that S3 names, without a `Location`, for a bucket of another one."""
    region = answer.headers.get("x-amz-bucket-region", "")
    if answer.status in {301, 307, 400} and _REGION.fullmatch(region):
        return _public("s3", name, key, region)
    return ""


def rewrite(url: str, environ: Mapping[str, str]) -> str:
    """A URL of Hugging Face's own kind as the https URL behind it; any other as it is.

    `hf://datasets/ORG/NAME@REV/PATH`, `hf://spaces/…` and, for a model, `hf://ORG/NAME@REV/PATH`; without a
    revision it is `main`.

    Raises:
        DataError: It is not of that form.
    """
    if not url.startswith("hf://"):
        return url
    kind, rest = "", url.removeprefix("hf://")
    for prefix in ("datasets/", "spaces/"):
        if rest.startswith(prefix):
            kind, rest = prefix, rest.removeprefix(prefix)
    organisation, _, tail = rest.partition("/")
    name, _, path = tail.partition("/")
    name, _, revision = name.partition("@")
    # A dot segment would lead, behind the check of the name, to another repository of the same host.
    steps = {step for part in (organisation, name, revision, path) for step in unquote(part).split("/")}
    if not (organisation and name and path) or re.search(r"[?#\\]", rest) or steps & {".", ".."}:
        raise DataError(
            f"{shown(url)} is not a Hugging Face URL that we know.",
            mend="Write hf://datasets/ORG/NAME@REVISION/PATH or hf://ORG/NAME/PATH.",
        )
    endpoint = environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{endpoint}/{kind}{organisation}/{name}/resolve/{quote(revision or 'main', safe='%')}/{path}"
