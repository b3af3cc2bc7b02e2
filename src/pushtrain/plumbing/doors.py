"""The one place where a data URL becomes a connection: the schemes there are, and who answers them.

http and https go by `plumbing.web`, `hf://` is another way to write an https URL of Hugging Face, object
stores go by `plumbing.cloud`. Anything else (`file:`, `ftp:`) is refused.
"""

from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from pushtrain.core.errors import DataError
from pushtrain.plumbing.cloud import SCHEMES, Cloud
from pushtrain.plumbing.download import Opener
from pushtrain.plumbing.web import Admit, Web, check


class Doors:
    """Connections for one fetch, kept open between its files.

    Args:
        allow: Given every URL before it is asked, those of redirects too; raises DataError to refuse it.
        environ: The executor's environment, for HF_TOKEN and HF_ENDPOINT.
        workers: How many threads will use it at once.
    """

    def __init__(self, allow: Admit, environ: Mapping[str, str], *, workers: int) -> None:
        self._environ = environ
        self._allow = allow
        token = environ.get("HF_TOKEN", "")
        host = urlsplit(rewrite("hf://a/b/c", environ)).hostname or ""
        self._web = Web(admit=allow, tokens={host: token} if token else {}, workers=workers)
        self._cloud = Cloud()

    def opener(self, url: str) -> Opener:
        """How to get the file at this URL."""
        real = rewrite(url, self._environ)
        if urlsplit(real).scheme in SCHEMES:
            self._allow(real)
            return self._cloud.opener(real)
        check(real)
        return self._web.opener(real)

    def close(self) -> None:
        """Close what is open."""
        self._web.close()


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
    if not (organisation and name and path):
        raise DataError(
            f"{url} is not a Hugging Face URL that we know.",
            mend="Write hf://datasets/ORG/NAME@REVISION/PATH or hf://ORG/NAME/PATH.",
        )
    endpoint = environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{endpoint}/{kind}{organisation}/{name}/resolve/{quote(revision or 'main', safe='%')}/{path}"
