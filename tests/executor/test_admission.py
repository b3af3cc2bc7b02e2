"""Who may ask what of the executor: keys, their scopes, their repositories and branches."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from asking import SENDER, STRANGER, ask, exchange, headers_for, send
from pushtrain.core.owner.rules import Rules
from pushtrain.core.settings import Repository
from pushtrain.core.values.jobspec import ResultsTarget
from pushtrain.plumbing.keys.authorized import Scope
from pushtrain.testing import REPOSITORY, a_command, a_spec
from served import Served, served


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "state") as one:
        one.authorized.add(SENDER.public_key(), name="ada")
        yield one


def test_an_unsigned_request_gets_a_signed_refusal(executor: Served) -> None:
    answer = exchange(executor, "GET", "/v1/runs", [])
    assert (answer.status, answer.bound, answer.error) == (401, False, "unauthorized")


def test_strangers_and_forgers_are_told_the_same(executor: Served) -> None:
    unsigned = exchange(executor, "GET", "/v1/runs", [])
    stranger = ask(executor, "GET", "/v1/runs", key=STRANGER)
    headers = headers_for(executor, "GET", "/v1/runs") | {"pushtrain-audience": "SHA256:x"}
    forged = exchange(executor, "GET", "/v1/runs", list(headers.items()))
    assert unsigned.body == stranger.body == forged.body
    assert {unsigned.status, stranger.status, forged.status} == {401}


def test_a_signature_header_that_is_there_twice_is_refused(executor: Served) -> None:
    headers = list(headers_for(executor, "GET", "/v1/runs").items())
    for extra in headers:
        answer = exchange(executor, "GET", "/v1/runs", [*headers, extra])
        assert (answer.status, answer.error) == (401, "unauthorized")


def test_a_signature_for_one_path_opens_no_other(executor: Served) -> None:
    send(executor)
    headers = list(headers_for(executor, "GET", "/v1/runs").items())
    for target in ("/v1/runs?limit=1", f"/v1/runs/{a_command().run_id}", "/v1/runs/", "/v1/runs#x"):
        assert exchange(executor, "GET", target, headers).status in {400, 401, 404}
    absolute = f"http://executor.example:{executor.port}/v1/runs"
    assert exchange(executor, "GET", absolute, headers).status == 400


def test_a_wrong_clock_is_told_to_whom_the_signature_held(executor: Served) -> None:
    headers = headers_for(executor, "GET", "/v1/runs")
    executor.clock.advance(61)
    answer = exchange(executor, "GET", "/v1/runs", list(headers.items()))
    assert answer.status == 401
    assert "61 s ago" in answer.told


def test_a_key_is_revoked_at_once(executor: Served) -> None:
    assert ask(executor, "GET", "/v1/runs").status == 200
    executor.state.authorized.write_text("# nobody\n")
    assert ask(executor, "GET", "/v1/runs").status == 401


@pytest.mark.parametrize("scope", list(Scope))
def test_a_key_can_do_what_its_scopes_say_and_no_more(executor: Served, scope: Scope) -> None:
    send(executor, a_command())
    executor.authorized.add(SENDER.public_key(), scopes=[scope])
    run = f"/v1/runs/{a_command().run_id}"
    again = a_command(request="again")
    answers = {
        Scope.SEND: [send(executor, again)],
        Scope.READ: [ask(executor, "GET", path) for path in ("/v1/runs", run, f"{run}/log")]
        + [ask(executor, "GET", f"{run}/stream", "until=nothing")],
        Scope.CANCEL: [ask(executor, "POST", f"{run}/cancel")],
    }
    for needed, found in answers.items():
        for answer in found:
            assert (answer.status == 403) is (needed is not scope), (needed, answer)
    assert ask(executor, "POST", "/v1/challenge").status == 200


def test_a_key_for_other_repositories_neither_sends_nor_sees(executor: Served) -> None:
    send(executor)
    run = f"/v1/runs/{a_command().run_id}"
    executor.authorized.add(SENDER.public_key(), repositories=["github.com/octo/other"])
    assert send(executor, a_command(request="again")).status == 403
    assert json.loads(ask(executor, "GET", "/v1/runs").body) == {"runs": []}
    unknown = ask(executor, "GET", run.replace(a_command().run_id, "f" * 32))
    hidden = ask(executor, "GET", run)
    assert hidden.status == unknown.status == 404
    assert hidden.body.replace(a_command().run_id.encode(), b"") == unknown.body.replace(b"f" * 32, b"")
    assert ask(executor, "POST", f"{run}/cancel").status == 404
    executor.authorized.add(SENDER.public_key(), repositories=["github.com/octo/*"])
    assert ask(executor, "GET", run).status == 200


@pytest.mark.parametrize(
    ("ref", "status"),
    [
        ("refs/heads/main", 202),
        ("refs/heads/exp/one/two", 202),
        ("refs/heads/exp/secret", 403),
        ("refs/heads/mainly", 403),
        ("refs/heads/refs/heads/main", 403),
        ("refs/tags/main", 403),
        ("refs/pull/1/head", 403),
    ],
)
def test_a_key_for_some_branches_sends_no_other_ref(executor: Served, ref: str, status: int) -> None:
    executor.authorized.add(SENDER.public_key(), branches=["main", "exp/**", "!exp/secret"])
    answer = send(executor, a_command(ref=ref))
    assert answer.status == status
    if status == 403:
        assert f"may only send commits of the branches main, exp/**, !exp/secret, not {ref}" in answer.told


def test_a_key_for_one_repository_puts_no_results_into_another(executor: Served) -> None:
    """The other one is served here, for somebody else."""
    other = Repository(key="github.com/octo/other", remote="https://github.com/octo/other")
    served_here = (*executor.service.settings.repositories, other)
    executor.service.settings = executor.service.settings.model_copy(update={"repositories": served_here})
    job = a_spec(results_to=ResultsTarget(repository=other.key))
    executor.authorized.add(SENDER.public_key(), repositories=[REPOSITORY])
    refused = send(executor, a_command(job=job))
    assert refused.status == 403
    assert "may not send for github.com/octo/other" in refused.told
    executor.authorized.add(SENDER.public_key(), repositories=[REPOSITORY, other.key])
    assert send(executor, a_command(job=job)).status == 202


@pytest.mark.parametrize(
    "ref",
    ["--upload-pack=touch x", "-x", "main", "refs/heads/../../x", "refs/heads/a\nb",
     "refs/heads/a b", "refs/x:y",
     "refs/heads/a\x1b]0;owned", "refs/heads/x.lock", "refs/heads/@{1}", "refs/heads/*",
     "refs/heads//x", "refs/"],
    ids=ascii,
)  # fmt: skip
def test_a_ref_that_is_an_option_a_pattern_or_leads_elsewhere_is_refused_at_the_door(
    executor: Served, ref: str
) -> None:
    document = json.loads(a_command().model_dump_json())
    document["ref"] = ref
    body = json.dumps(document).encode()
    answer = ask(executor, "POST", "/v1/runs", body=body, idempotency=a_command().run_id)
    assert answer.status == 400, answer.body
    assert executor.store.runs() == []


def evil_target(**target: object) -> bytes:
    """A signed command as a patched sender makes it: our own would not."""
    document = json.loads(a_command().model_dump_json())
    document["job"]["results_to"].update(target)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "target",
    [
        {"branch": "-x"},
        {"branch": "--force"},
        {"branch": "refs/heads/main"},
        {"branch": "main:refs/heads/x"},
        {"branch": "../main"},
        {"branch": "a\nb"},
        {"branch": "a\u202eb"},
        {"branch": "x.lock"},
        {"branch": ""},
        {"branch": "pushtrain/config"},
        {"path": "../outside"},
        {"path": "/etc"},
        {"path": ".github/workflows"},
        {"path": "docs/.git"},
        {"path": "git~1"},
        {"path": "a/-b"},
        {"path": "a\u200bb"},
        {"path": "x" * 500},
        {"repository": "../../etc"},
        {"repository": "github.com/../x"},
        {"artifacts": "file:///home/owner"},
        {"artifacts": "s3://key:secret@bucket/x"},
        {"artifacts": "s3://bucket/../other"},
        {"artifacts": "http://169.254.169.254/"},
    ],
    ids=ascii,
)
def test_a_command_whose_results_would_go_to_an_odd_place_is_refused(
    executor: Served, target: dict[str, object]
) -> None:
    answer = ask(executor, "POST", "/v1/runs", body=evil_target(**target), idempotency=a_command().run_id)
    assert answer.status == 400, answer.body
    assert executor.store.runs() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"env": {"A=B": "x"}},
        {"env": {"PUSHTRAIN_ATTEMPT_ID=x": "y"}},
        {"env": {"PUSHTRAIN_INSIDE": "{}"}},
        {"env": {"": "x"}},
        {"env": {"A\nB": "x"}},
        {"env": {"A": "x" * 200_000}},
        {"env": {"A": "\N{SNOWMAN}" * 50_000}},
        {"command": []},
        {"command": ["echo", "x" * 200_000]},
        {"command": "echo " + "x" * 200_000},
        {"setup": ["echo " + "x" * 200_000]},
    ],
    ids=lambda fields: ascii(fields)[:40],
)
def test_what_no_program_can_be_given_is_refused_at_the_door(
    executor: Served, fields: dict[str, object]
) -> None:
    """It used to be taken for a sandbox that cannot be entered."""
    document = json.loads(a_command().model_dump_json())
    document["job"].update(fields)
    body = json.dumps(document).encode()
    answer = ask(executor, "POST", "/v1/runs", body=body, idempotency=a_command().run_id)
    assert (answer.status, answer.error) == (400, "usage"), answer.body
    assert f"job.{next(iter(fields))}" in answer.told
    assert executor.store.runs() == []


@pytest.mark.parametrize(
    ("rules", "target", "allowed"),
    [
        ({}, {"branch": "main"}, True),  # it is what was pushed
        ({}, {"branch": "same"}, True),
        ({}, {"branch": "release"}, False),
        ({"results_branches": ("rel*",)}, {"branch": "release"}, True),
        ({"results_branches": ("rel*",)}, {"branch": "main-2"}, False),
        ({}, {"artifacts": "s3://bucket/x"}, False),
        ({"artifact_urls": ("s3://bucket/lab",)}, {"artifacts": "s3://bucket/lab/x"}, True),
        ({"artifact_urls": ("s3://bucket/lab",)}, {"artifacts": "s3://bucket/laboratory"}, False),
        ({"artifact_urls": ("s3://bucket",)}, {"artifacts": "s3://bucket2/x"}, False),
        ({"artifact_urls": ("s3://bucket",)}, {"artifacts": "gs://bucket/x"}, False),
        ({}, {"artifacts": "lfs"}, True),
    ],
    ids=str,
)
def test_results_go_with_the_owners_credentials_only_where_the_owner_says(
    executor: Served, rules: dict[str, object], target: dict[str, object], allowed: bool
) -> None:
    executor.service.rulebook = replace(executor.service.rulebook, rules=Rules.model_validate(rules))
    answer = ask(executor, "POST", "/v1/runs", body=evil_target(**target), idempotency=a_command().run_id)
    assert answer.status == (202 if allowed else 403), answer.body
    if not allowed:
        assert f"rules.{'results_branches' if 'branch' in target else 'artifact_urls'}" in answer.told
