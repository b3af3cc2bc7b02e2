"""docs/openapi.json: the executor's HTTP interface as an OpenAPI 3.1 document.

The shapes are those of the values that the code reads and writes, and the routes are those of its routing
table; what neither says (scopes, parameters, which value is whose answer) stands here, and a test asks a real
executor whether it is true.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from pushtrain.core.runs.gpustate import MachineGpus
from pushtrain.core.runs.usage import LONGEST_LEDGER, Usage
from pushtrain.core.values.card import Challenge
from pushtrain.core.values.command import TrainCommand
from pushtrain.core.values.run import LogChunk, Run, RunView
from pushtrain.core.wire import frames
from pushtrain.core.wire.bodies import BYTES, JSON, LINES, MAX_LOG, MAX_PIECE, MAX_RUNS, ErrorBody, RunList
from pushtrain.core.wire.invitation import NAME, PROOF, Introduction, Welcome
from pushtrain.core.wire.invitation import PATH as JOIN
from pushtrain.core.wire.signing import AUDIENCE, IDEMPOTENCY
from pushtrain.executor.api.calls import ROUTES

Schema = dict[str, Any]
Refs = Mapping[tuple[Any, str], Schema]
"""A reference to the schema of each value, as it is read (`validation`) or written (`serialization`)."""
_FAR: Final = 2**53
_PREFIX: Final = "#/components/schemas/{model}"
_SIGNED: Final[Schema] = {"signature": [], "signature-input": [], "audience": []}


@dataclass(frozen=True)
class Operation:
    """What one method of one path takes and gives."""

    scope: str
    """What the caller's key must allow; empty: any key will do."""
    answer: type[BaseModel] | tuple[type[BaseModel], ...] | None
    """One value, the lines of a stream, or None: bytes."""
    body: type[BaseModel] | None = None
    query: Mapping[str, Schema] = field(default_factory=dict)
    status: int = 200


def _number(default: int, most: int = _FAR) -> Schema:
    return {"type": "integer", "minimum": 0, "maximum": most, "default": default}


_ATTEMPT: Final = _number(0)
_LIVE: Final = (frames.LogFrame, frames.ViewFrame, frames.BeatFrame, frames.EndFrame)
_RUN: Final = "/v1/runs/{run_id}"
OPERATIONS: Final[Mapping[tuple[str, str], Operation]] = {
    ("/v1/challenge", "POST"): Operation("", Challenge),
    ("/v1/events", "GET"): Operation("send", (frames.CapacityFrame, frames.RunFrame)),
    ("/v1/runs", "GET"): Operation(
        "read",
        RunList,
        query={
            "find": {"type": "string", "default": ""},
            "repository": {"type": "string", "default": ""},
            "limit": _number(50, MAX_RUNS),
        },
    ),
    ("/v1/runs", "POST"): Operation("send", Run, body=TrainCommand, status=202),
    (_RUN, "GET"): Operation("read", RunView),
    (f"{_RUN}/log", "GET"): Operation(
        "read",
        LogChunk,
        query={"attempt": _ATTEMPT, "offset": _number(0), "limit": _number(256 * 1024, MAX_LOG)},
    ),
    (f"{_RUN}/stream", "GET"): Operation(
        "read",
        _LIVE,
        query={
            "attempt": _ATTEMPT,
            "offset": _number(0),
            "until": {"type": "string", "enum": ["end", "log"], "default": "end"},
        },
    ),
    (f"{_RUN}/cancel", "POST"): Operation("cancel", Run),
    (f"{_RUN}/release", "POST"): Operation("send", Run, query={"attempt": _ATTEMPT}),
    ("/v1/usage", "GET"): Operation("read", Usage, query={"days": _number(30, LONGEST_LEDGER)}),
    ("/v1/gpus", "GET"): Operation("read", MachineGpus),
    (f"{_RUN}/artifacts/{{path}}", "GET"): Operation(
        "read", None, query={"offset": _number(0), "limit": _number(1024 * 1024, MAX_PIECE)}
    ),
}
"""Every operation behind a signature."""


def document(docs: Mapping[tuple[str, str], str]) -> Schema:
    """The whole description.

    Args:
        docs: What the code says of each field of each class.
    """
    handlers = {
        (re.sub(r"{(\w+):path}", r"{\1}", path), method): handler
        for path, methods in ROUTES.items()
        for method, handler in methods.items()
    }
    if handlers.keys() != OPERATIONS.keys():
        raise SystemExit(
            f"scripts/openapi.py does not say what these are: {handlers.keys() ^ OPERATIONS.keys()}"
        )
    refs, schemas = _schemas()
    for model, schema in schemas.items():
        for name, each in schema.get("properties", {}).items():
            if (model, name) in docs:
                each["description"] = docs[model, name]
    paths: dict[str, Schema] = {}
    for (path, method), operation in OPERATIONS.items():
        handler = handlers[path, method]
        paths.setdefault(path, {})[method.lower()] = _operation(path, operation, refs) | {
            "operationId": handler.__name__,
            "summary": _said(handler.__doc__),
        }
    paths[JOIN] = {"post": _join(refs)}
    paths["/healthz"] = {"get": _health()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pushtrain executor",
            "version": "1",
            "description": (
                "Made by scripts/docs.py. wire-protocol.md tells what a schema cannot: how requests, answers"
                " and the lines of streams are signed, and what each promises."
            ),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [
            {"url": "http://127.0.0.1:8421", "description": "or the `public_url` of the executor's card"}
        ],
        "security": [_SIGNED],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                "Error": {
                    "description": "What failed, why, and the mend",
                    **_content(refs[ErrorBody, "serialization"]),
                }
            },
            "securitySchemes": {
                "signature": _header("signature", "RFC 9421, Ed25519, labelled `pushtrain`"),
                "signature-input": _header("signature-input", "what is signed, when, by whom"),
                "audience": _header(AUDIENCE, "fingerprint of the executor that is asked"),
                "invitation": _header(NAME, "name of the invitation"),
                "proof": _header(PROOF, "proof of knowing the invitation's code"),
            },
        },
    }


def page(docs: Mapping[tuple[str, str], str]) -> str:
    """docs/openapi.json."""
    return json.dumps(document(docs), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _schemas() -> tuple[Refs, Schema]:
    """A reference for each value that is read or written, and what the references lead to."""
    written: list[type[BaseModel]] = [Welcome, ErrorBody]
    read: list[type[BaseModel]] = [Introduction]
    for operation in OPERATIONS.values():
        written += (
            operation.answer
            if isinstance(operation.answer, tuple)
            else [operation.answer]
            if operation.answer
            else []
        )
        read += [operation.body] if operation.body else []
    asked = [(model, "serialization") for model in written] + [(model, "validation") for model in read]
    refs, made = models_json_schema(list(dict.fromkeys(asked)), ref_template=_PREFIX)  # type: ignore[arg-type]
    return {(model, mode): ref for (model, mode), ref in refs.items()}, made["$defs"]


def _operation(path: str, operation: Operation, refs: Refs) -> Schema:
    if operation.answer is None:
        content: Schema = {"content": {BYTES: {}}}
    elif isinstance(operation.answer, tuple):
        lines = " or ".join(f"`{model.__name__}`" for model in operation.answer)
        content = {
            "content": {
                LINES: {
                    "schema": {"type": "string", "description": f"A line each: {lines}, and its signature."}
                }
            }
        }
    else:
        content = _content(refs[operation.answer, "serialization"])
    parameters = [_in_path(name) for name in re.findall(r"{(\w+)}", path)]
    parameters += [
        {"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()
    ]
    made: Schema = {
        "description": f"Scope: {operation.scope or 'any'}.",
        "parameters": parameters,
        "responses": _responses(operation.status, content),
    }
    if operation.body:
        made["requestBody"] = {"required": True, **_content(refs[operation.body, "validation"])}
        made["parameters"].append(
            {
                "name": IDEMPOTENCY,
                "in": "header",
                "required": True,
                "schema": {"type": "string"},
                "description": "the command's `run_id`",
            }
        )
    return made


def _in_path(name: str) -> Schema:
    schema: Schema = {"type": "string", "minLength": 1}
    if name == "run_id":
        schema = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _join(refs: Refs) -> Schema:
    return {
        "operationId": "join",
        "summary": "Come in with an invitation's code.",
        "description": "Signed by the key that is to be authorised.",
        "security": [_SIGNED | {"invitation": [], "proof": []}],
        "requestBody": {"required": True, **_content(refs[Introduction, "validation"])},
        "responses": _responses(200, _content(refs[Welcome, "serialization"])),
    }


def _health() -> Schema:
    return {
        "operationId": "health",
        "summary": "Alive, and not a word more; not signed.",
        "security": [],
        "responses": {"204": {"description": "It is."}},
    }


def _responses(status: int, content: Schema) -> Schema:
    error = {"$ref": "#/components/responses/Error"}
    return {str(status): {"description": "Signed by the executor", **content}, "4XX": error, "5XX": error}


def _content(schema: Schema) -> Schema:
    return {"content": {JSON: {"schema": schema}}}


def _header(name: str, what: str) -> Schema:
    return {"type": "apiKey", "in": "header", "name": name, "description": what}


def _said(docstring: str | None) -> str:
    """A handler's docstring without the route that it begins with; else the route."""
    text = " ".join(str(docstring).split()).removesuffix(".")
    said = re.sub(r"^`[^`]*`(: )?", "", text) or text.strip("`")
    return said[0].upper() + said[1:] + "."
