"""The JSON Schema of `config.json`, the roster: for editors, and for whoever writes a reader of their own.

It accepts whatever `core.wire.roster` writes. Fields that it does not name are allowed everywhere: they are
kept, and a card's signature covers them. docs/config.schema.json is this, printed.
"""

from typing import Any, Final

from pushtrain.core.wire.roster import MAX_CARDS, VERSION

URL: Final = "https://raw.githubusercontent.com/pushtrain/pushtrain/main/docs/config.schema.json"

Schema = dict[str, Any]


def json_schema() -> Schema:
    """The schema as a JSON document (draft 7)."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": URL,
        "title": "config.json",
        "description": "The executors that offer to train for a repository. Reference: docs/config-json.md.",
        "type": "object",
        "required": ["version"],
        "properties": {
            "version": {"description": "The form of this file.", "const": VERSION},
            "executors": {
                "description": "One card for each executor, under the fingerprint of its public key.",
                "type": "object",
                "maxProperties": MAX_CARDS,
                "patternProperties": {"^SHA256:[A-Za-z0-9_-]{43}$": _card()},
            },
        },
    }


def _card() -> Schema:
    required = ("name", "public_url", "timestamp", "public_key", "sequence", "expires", "signature")
    return {
        "description": "One executor: where it is, what it has, and its signature.",
        "type": "object",
        "required": list(required),
        "properties": {
            "name": _text("What people call it."),
            "public_url": _text(
                "Where it takes calls: scheme, host and port. Empty: it takes none.",
                "^$|^[Hh][Tt][Tt][Pp][Ss]?://[!-~]+$",
            ),
            "ip": _text("Where its own server listens; informative, never dialled. Empty: not told."),
            "port": _number(
                "Where its own server listens; informative. 0: not told.", maximum=65535, whole=True
            ),
            "timestamp": _number("When the card was written: seconds since 1970, UTC."),
            "public_key": _text(
                "Its Ed25519 key: `ed25519:` and the base64 of 32 bytes.",
                "^ed25519:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$",
            ),
            "sealing_key": _text(
                "The X25519 key that secrets for it are sealed to: `x25519:` and the base64 of 32 bytes. "
                "Empty: it takes none.",
                "^$|^x25519:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$",
            ),
            "succession": _texts(
                "What each former key of it said of the next one, the oldest first: old key, new key, when, "
                "until when the old one counts, and the old key's signature."
            ),
            "labels": _texts("Words that jobs may ask for."),
            "prefer": {
                "description": "What its owner wishes: of several executors the one with the highest number.",
                "type": "integer",
                "default": 0,
            },
            "mounts": _texts("Names of the folders that it lends to jobs."),
            "gpus": {"description": "Its GPUs.", "type": "array", "items": _gpu()},
            "repositories": _texts("Repositories that it serves and whose roster this is."),
            "isolation": _text("The level that its jobs run at."),
            "network": _text(
                "What its jobs reach: `full`, `internet`, `fetch-only` or `none`. Empty: what its owner "
                "allows cannot be enforced."
            ),
            "online": {"description": "False after it was stopped.", "type": "boolean", "default": True},
            "draining": {
                "description": "Whether it finishes what runs and takes nothing new.",
                "type": "boolean",
                "default": False,
            },
            "sequence": _number(
                "Grows with each card of this executor; an older one is never believed again.", whole=True
            ),
            "expires": _number("When the card is no longer believed: seconds since 1970, UTC."),
            "signature": _text(
                "Base64 of the Ed25519 signature over `pushtrain-card-1`, a line feed, and the RFC 8785 form "
                "of the card without this field.",
                "^[A-Za-z0-9+/]{85}[AQgw]==$",
            ),
        },
    }


def _gpu() -> Schema:
    return {
        "type": "object",
        "required": ["uuid", "index", "name", "memory"],
        "properties": {
            "uuid": _text("Its UUID; empty unless the owner publishes it."),
            "index": _number("Its place in the driver's order.", whole=True),
            "name": _text("Its product name."),
            "memory": _number("Bytes in all.", whole=True),
            "driver": _text("The driver's version; empty unless the owner publishes it."),
            "capability": _text("CUDA's compute capability, such as `8.9`; empty: not known."),
            "display": {"description": "Whether a display is attached.", "type": "boolean", "default": False},
            "trouble": _text("Why nobody gets it until it is mended; empty: it is in order."),
            "slice": {
                "description": "Its number among the slices (MIG) of its card; null: it is a whole card.",
                "type": ["integer", "null"],
                "minimum": 0,
                "default": None,
            },
        },
    }


def _text(description: str, pattern: str = "") -> Schema:
    return {"description": description, "type": "string", **({"pattern": pattern} if pattern else {})}


def _texts(description: str) -> Schema:
    return {"description": description, "type": "array", "items": {"type": "string"}, "default": []}


def _number(description: str, *, maximum: int | None = None, whole: bool = False) -> Schema:
    limit = {} if maximum is None else {"maximum": maximum}
    return {"description": description, "type": "integer" if whole else "number", "minimum": 0, **limit}
