"""The lines of one live stream, as the executor writes them: each signed, numbered, and in order."""

import time
from collections.abc import Awaitable, Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pushtrain.core.wire.frames import Frame, seal

Write = Callable[[bytes], Awaitable[None]]


class Lines:
    """One stream's lines.

    Args:
        key: Signs each of them.
        request: Signature of the request that the stream answers.
        write: Takes one line; may block for as long as the reader is slow.
    """

    def __init__(self, key: Ed25519PrivateKey, request: str, write: Write) -> None:
        self._key = key
        self._request = request
        self._write = write
        self._number = 0
        self._wrote_at = time.monotonic()

    def seal(self, frame: Frame) -> bytes:
        """The frame as the next line; it must be written before another is sealed."""
        return seal(frame, key=self._key, request=self._request, number=self._number)

    async def write(self, line: bytes) -> None:
        """Write the line that was sealed last."""
        self._number += 1
        self._wrote_at = time.monotonic()
        await self._write(line)

    async def tell(self, frame: Frame) -> None:
        """Seal and write."""
        await self.write(self.seal(frame))

    def quiet(self) -> float:
        """Seconds since the last line."""
        return time.monotonic() - self._wrote_at
