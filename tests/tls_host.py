"""A loopback web server that speaks TLS under names of its own, and the authority that vouches for it."""

import datetime as dt
import ipaddress
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from data_server import FileServer, Handler, _Server

_DAY = dt.timedelta(days=1)


def certify(folder: Path, names: Sequence[str]) -> tuple[Path, Path]:
    """A self-signed certificate for names and addresses, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    title = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(title)
        .issuer_name(title)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


@contextmanager
def tls_server(folder: Path, *names: str) -> Iterator[FileServer]:
    """A file server; its `url` has the first name, and `sni` in its `asked` entries is what clients named."""
    certificate, key = certify(folder, names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    seen: list[str] = []
    context.sni_callback = lambda _socket, name, _context: seen.append(name)
    server = _Server(("127.0.0.1", 0), type("Bound", (Handler,), {}))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    files = FileServer(f"https://{names[0]}:{server.server_address[1]}")
    files.named = seen  # type: ignore[attr-defined]
    server.RequestHandlerClass.files = files  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        thread.join(20)
        server.server_close()
