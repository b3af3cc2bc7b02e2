"""A package index on loopback with wheels made by hand, so that environments build without the internet."""

import base64
import hashlib
import io
import zipfile
from collections.abc import Sequence

from data_server import FileServer


def wheel(name: str, version: str, *, requires: Sequence[str] = (), script: str = "") -> tuple[str, bytes]:
    """A wheel with one module that knows its version; its file name and content."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n\ndef main():\n    print('{name}', VERSION)\n",
        f"{info}/METADATA": "\n".join(
            [
                "Metadata-Version: 2.1",
                f"Name: {name}",
                f"Version: {version}",
                *(f"Requires-Dist: {one}" for one in requires),
                "",
            ]
        ),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if script:
        files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{script} = {name}:main\n"
    record = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text.encode())}"
        for path, text in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return f"{name}-{version}-py3-none-any.whl", out.getvalue()


def serve_index(server: FileServer, wheels: Sequence[tuple[str, bytes]]) -> str:
    """Serve wheels as a simple index (PEP 503); its URL."""
    pages: dict[str, list[str]] = {}
    for file, content in wheels:
        url = server.serve(f"/files/{file}", content)
        digest = hashlib.sha256(content).hexdigest()
        pages.setdefault(file.partition("-")[0], []).append(f'<a href="{url}#sha256={digest}">{file}</a>')
    for name, links in pages.items():
        server.serve(
            f"/simple/{name}/",
            f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode(),
            kind="text/html",
        )
    return f"{server.url}/simple"
