"""docs/openapi.json is true, and whatever it allows or forbids, an executor answers it without a defect."""

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from schemathesis import Case, GenerationMode
from starlette.routing import Route

from asking import SENDER, Answer, headers_for, send
from pushtrain.core.lifecycle import Exited, Prepared
from pushtrain.core.values.command import TrainCommand, run_id
from pushtrain.core.values.run import Artifact
from pushtrain.core.values.states import Reason
from pushtrain.core.wire.bodies import LINES
from pushtrain.executor.api.calls import ROUTES
from pushtrain.executor.api.web import create_app
from pushtrain.testing import REPOSITORY, a_command
from served import Served, served

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT: dict[str, Any] = json.loads((ROOT / "docs/openapi.json").read_text())
OPERATIONS = [(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods]
SIGNED = [each for each in OPERATIONS if each[1] not in {"/healthz", "/v1/join"}]
DESCRIBED = schemathesis.openapi.from_dict(DOCUMENT)
SHAPES: Registry[Any] = Registry().with_resource("urn:document", DRAFT202012.create_resource(DOCUMENT))
NOISE = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One with a run that waits, and one that has ended and left a log and a file."""
    with served(tmp_path_factory.mktemp("asked") / "state", queue_limit=10_000) as one:
        one.authorized.add(SENDER.public_key(), name="ada")
        send(one)
        ended, folder = one.claim()
        folder.log.write_bytes(b"a log\n")
        folder.artifacts.mkdir(exist_ok=True)
        (folder.artifacts / "model").write_bytes(b"a model")
        one.store.advance(ended.id, Prepared())
        one.store.advance(ended.id, Exited(Reason.EXITED, 0))
        one.store.save_artifacts(
            ended.id, [Artifact(path="model", size=7, sha256="0" * 64, where="executor")]
        )
        send(one, a_command(request="waits"))
        yield one


def described(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method.lower()]
    return found


def can_be_wrong(method: str, path: str) -> bool:
    """Whether there is anything in a request that the document could forbid."""
    operation = described(method, path)
    return bool(operation.get("parameters") or operation.get("requestBody"))


def fits(answer: Answer, method: str, path: str) -> None:
    """The answer is one of those that the document describes, in form too."""
    told = described(method, path)["responses"]
    known = told.get(str(answer.status)) or told[f"{answer.status // 100}XX"]
    if answer.status == 204:
        assert "content" not in known
        assert answer.body == b""
        return
    content = (known if "content" in known else DOCUMENT["components"]["responses"]["Error"])["content"]
    kind = answer.headers["content-type"]
    assert kind in content
    if kind == "application/json":
        schema = {"$ref": "urn:document" + content[kind]["schema"]["$ref"]}
        Draft202012Validator(schema, registry=SHAPES).validate(json.loads(answer.body))


def test_every_route_of_the_executor_stands_in_the_description_and_no_other() -> None:
    app = create_app(Mock())  # nobody comes in
    paths = {route.path for route in app.routes if isinstance(route, Route)} - {"/{rest:path}"}
    assert {re.sub(r"{(\w+):path}", r"{\1}", path) for path in paths} == set(DOCUMENT["paths"])
    served_there = {
        (method, re.sub(r"{(\w+):path}", r"{\1}", path))
        for path, methods in ROUTES.items()
        for method in methods
    }
    assert set(SIGNED) == served_there


def test_every_shape_in_it_is_a_schema_and_leads_somewhere() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    schemas = DOCUMENT["components"]["schemas"]
    for name, schema in schemas.items():
        Draft202012Validator.check_schema(schema)
        assert schema.get("additionalProperties") is False or "enum" in schema, name
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert named <= set(schemas)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_only_the_health_check_is_described_as_open(method: str, path: str) -> None:
    asked = described(method, path).get("security", DOCUMENT["security"])
    assert (asked == []) is (path == "/healthz")
    assert all("signature" in way for way in asked)


QUERIES = {"days", "attempt", "offset", "limit", "until", "find", "repository"}


@pytest.mark.parametrize(("method", "path"), SIGNED)
def test_the_parameters_in_it_are_those_that_are_taken(executor: Served, method: str, path: str) -> None:
    """Each with its default is understood; those of other routes are not."""
    query = {
        one["name"]: one["schema"]["default"]
        for one in described(method, path)["parameters"]
        if one["in"] == "query"
    }
    assert QUERIES.issuperset(query)
    run = executor.store.runs()[0 if path.endswith(("cancel", "release")) else -1].id
    target = path.replace("{run_id}", run).replace("{path}", "model")
    command = a_command(request="asked")
    body = command.model_dump_json().encode() if (method, path) == ("POST", "/v1/runs") else b""
    for name in QUERIES:
        text = f"{name}={query.get(name, 0)}"
        headers = headers_for(executor, method, target, text, body, idempotency=command.run_id)
        answer = told(executor, method, f"{target}?{text}", headers, body)
        assert (answer.status == 400) is (name not in query), (name, answer)
        fits(answer, method, path)


def told(executor: Served, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
    """The answer to a request; of a stream its head and its first line."""
    connection = http.client.HTTPConnection("127.0.0.1", executor.port, timeout=20)
    try:
        connection.request(method, target, body or None, headers)
        answer = connection.getresponse()
        lives = answer.headers["content-type"] == LINES
        content = answer.readline() if lives else answer.read()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, content)
    finally:
        connection.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        (*each, mode)
        for each in OPERATIONS
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        if mode is GenerationMode.POSITIVE or can_be_wrong(*each)
    ],
)
def test_whatever_the_description_allows_or_forbids_is_answered_as_it_says_and_never_by_a_defect(
    executor: Served, method: str, path: str, mode: GenerationMode
) -> None:
    operation = DESCRIBED[path][method]
    runs = [run.id for run in executor.store.runs()][-1:-3:-1]
    statuses = set()

    @NOISE
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def asked(case: Case[Any], data: st.DataObject) -> None:
        if "run_id" in case.path_parameters and not data.draw(st.booleans()):
            case.path_parameters["run_id"] = data.draw(st.sampled_from(runs))
        if (
            mode is GenerationMode.POSITIVE
            and "path" in case.path_parameters
            and not data.draw(st.booleans())
        ):
            case.path_parameters["path"] = "model"
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and path == "/v1/runs":
            case.body = named(case.body, data.draw(st.sampled_from([REPOSITORY, "github.com/octo/other"])))
        case.headers.clear()
        prepared = requests.Request(**case.as_transport_kwargs(base_url=executor.url)).prepare()
        body = prepared.body.encode() if isinstance(prepared.body, str) else prepared.body or b""
        assert isinstance(body, bytes)
        target, _, query = prepared.path_url.partition("?")
        key = case.body.get("run_id") if isinstance(case.body, dict) else None
        idempotency = key if isinstance(key, str) and key.isascii() and key.isalnum() else "none"
        headers = headers_for(executor, method, target, query, body, idempotency=idempotency)
        answer = told(executor, method, prepared.path_url, headers, body)
        if answer.status == 400 and "signature" not in answer.headers:  # of two meanings: nobody looked at it
            return
        assert answer.status < 500, answer
        fits(answer, method, path)
        statuses.add(answer.status)

    asked()
    if mode is GenerationMode.POSITIVE and path not in {"/healthz", "/v1/join"}:
        assert statuses & {200, 202, 409}, f"none of them got as far as what it asks for: {statuses}"


def named(document: dict[str, Any], repository: str) -> dict[str, Any]:
    """A command for a branch of a repository, with the run id that it truly has."""
    document = document | {"repository": repository, "ref": "refs/heads/main"}
    try:
        command = TrainCommand.model_validate(document)
    except ValueError:
        return document
    true = run_id(
        repository=repository,
        commit=command.commit,
        job=command.job.name,
        cell=command.job.cell,
        request=command.request,
    )
    return document | {"run_id": true}
