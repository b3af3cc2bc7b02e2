"""Commits that must be signed, and jobs that must be the commit's own: real keys, real git, real GPG."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruled import Lab, ran

from pushtrain.core.errors import ConfigError
from pushtrain.core.owner.rules import Rules
from pushtrain.core.values.run import Run
from pushtrain.core.values.states import Outcome, Reason

JOBS = """
[job.train]
command = "echo the job ran"
environment = "system"
"""


def keypair(folder: Path, name: str) -> Path:
    path = folder / name
    argv = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path))
    subprocess.run(argv, check=True)
    return path


def signed_with(key: Path) -> tuple[str, ...]:
    """git's options for commits that are signed by an SSH key."""
    return ("-c", "gpg.format=ssh", "-c", f"user.signingkey={key}.pub", "-c", "commit.gpgsign=true")


def signing(folder: Path, **rules: Any) -> tuple[Lab, Path]:
    """A lab that demands commits signed by one key; and that key."""
    key = keypair(folder, "ada")
    listed = folder / "allowed_signers"
    listed.write_text(f'ada@example.org namespaces="git" {(folder / "ada.pub").read_text()}')
    wanted = {"require_signed_commits": True, "allowed_signers": str(listed), **rules}
    return Lab(folder / "lab", Rules(**wanted)), key


def refused_for(lab: Lab, run: Run, words: str, rule: str = "rules.require_signed_commits") -> None:
    view = lab.done(run)
    assert (view.run.outcome, view.run.reason) == (Outcome.FAILED, Reason.REFUSED), view.run.detail
    assert f"`{rule}`" in view.run.detail
    assert words in view.run.detail
    assert not ran(lab, view)


def test_a_commit_that_a_listed_signer_signed_runs(tmp_path: Path) -> None:
    lab, key = signing(tmp_path)
    with lab.open():
        lab.commit({"pushtrain.toml": JOBS}, *signed_with(key))
        view = lab.done(lab.send())
    assert (view.run.outcome, lab.log(view.run)) == (Outcome.SUCCEEDED, "the job ran\n")


def test_a_commit_without_the_signature_of_a_listed_signer_is_refused(tmp_path: Path) -> None:
    lab, key = signing(tmp_path)
    stranger = keypair(tmp_path, "eve")
    with lab.open():
        lab.commit({"pushtrain.toml": JOBS})
        refused_for(lab, lab.send(), "it is not signed")
        lab.commit(None, *signed_with(stranger))
        refused_for(lab, lab.send(), "its signer is on no list of the owner")
        signed = lab.commit(None, *signed_with(key))
        forged = lab.work.git("cat-file", "commit", signed).replace("A change", "Another change")
        (lab.folder / "forged").write_text(forged + "\n")
        commit = lab.work.git("hash-object", "-t", "commit", "-w", str(lab.folder / "forged"))
        lab.work.git("push", "--quiet", "--force", "origin", f"{commit}:refs/heads/main")
        refused_for(lab, lab.send(lab.command(commit=commit)), "its signature is not valid")


def test_what_a_user_or_a_repository_configures_for_signatures_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, _ = signing(tmp_path)
    stranger = keypair(tmp_path, "eve")
    theirs = tmp_path / "theirs"
    theirs.write_text(f"eve@example.org {(tmp_path / 'eve.pub').read_text()}")
    liar = tmp_path / "liar"
    liar.write_text("#!/bin/sh\necho 'Good \"git\" signature for ada@example.org with ED25519 key'\n")
    liar.chmod(0o755)
    config = tmp_path / "gitconfig"
    lines = (f"[gpg.ssh]\nallowedSignersFile = {theirs}\nprogram = {liar}\n", f"[gpg]\nprogram = {liar}\n")
    config.write_text("".join(lines))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    with lab.open():
        lab.commit({"pushtrain.toml": JOBS, "allowed_signers": theirs.read_text()}, *signed_with(stranger))
        lab.work.git(
            "config", "--file", str(lab.origin / "config"), "gpg.ssh.allowedSignersFile", str(theirs)
        )
        refused_for(lab, lab.send(), "its signer is on no list of the owner")
        lab.commit()
        refused_for(lab, lab.send(), "it is not signed")


def test_a_sender_cannot_run_another_command_at_a_signed_commit(tmp_path: Path) -> None:
    lab, key = signing(tmp_path)
    with lab.open():
        lab.commit({"pushtrain.toml": JOBS}, *signed_with(key))
        refused_for(
            lab, lab.send(lab.command("echo the job ran; id")), "was sent otherwise", "rules.committed_jobs"
        )
        lab.commit({"pushtrain.toml": "[job.other]\ncommand = 'x'\n"}, *signed_with(key))
        refused_for(lab, lab.send(), "has no job `train`", "rules.committed_jobs")


def test_jobs_of_the_commit_alone_may_be_demanded_without_signatures(tmp_path: Path) -> None:
    lab = Lab(tmp_path, Rules(committed_jobs=True))
    with lab.open():
        refused_for(lab, lab.send(), "there is no pushtrain.toml", "rules.committed_jobs")
        lab.commit({"pushtrain.toml": JOBS})
        assert lab.done(lab.send()).run.outcome is Outcome.SUCCEEDED
        changed = lab.command(env={"LD_PRELOAD": "./evil.so"})
        refused_for(lab, lab.send(changed), "was sent otherwise", "rules.committed_jobs")


def test_a_list_of_signers_that_is_gone_or_open_to_others_lets_nothing_run(tmp_path: Path) -> None:
    lab, key = signing(tmp_path)
    listed = tmp_path / "allowed_signers"
    with lab.open():
        lab.commit({"pushtrain.toml": JOBS}, *signed_with(key))
        listed.chmod(0o666)
        refused_for(lab, lab.send(), "no list of signers can be read")
        listed.unlink()
        refused_for(lab, lab.send(), "no list of signers can be read")
    with pytest.raises(ConfigError, match=r"`rules\.allowed_signers` is .* cannot be read"), lab.open():
        pass


def gpg(home: Path, *words: str, given: str = "") -> str:
    home.mkdir(mode=0o700, exist_ok=True)
    argv = (
        "gpg",
        "--homedir",
        str(home),
        "--batch",
        "--quiet",
        "--passphrase",
        "",
        "--pinentry-mode",
        "loopback",
    )
    done = subprocess.run((*argv, *words), input=given, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.slow
def test_gpg_signatures_count_by_the_owners_keyring_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "g"
    for who in ("ada@example.org", "eve@example.org"):
        gpg(home, "--quick-gen-key", who, "ed25519", "sign", "0")
    ring = tmp_path / "ring.asc"
    ring.write_text(gpg(home, "--armor", "--export", "ada@example.org"))
    lab = Lab(tmp_path / "lab", Rules(require_signed_commits=True, gpg_keyring=str(ring)))
    monkeypatch.setenv("GNUPGHOME", str(home))  # the owner's own, which knows eve: it must not count
    program = tmp_path / "gpg-at-home"
    program.write_text(f'#!/bin/sh\nexec gpg --homedir {home} "$@"\n')
    program.chmod(0o755)
    by = {
        who: (
            "-c",
            f"gpg.program={program}",
            "-c",
            f"user.signingkey={who}@example.org",
            "-c",
            "commit.gpgsign=1",
        )
        for who in ("ada", "eve")
    }
    try:
        with lab.open():
            lab.commit({"pushtrain.toml": JOBS}, *by["ada"])
            assert lab.done(lab.send()).run.outcome is Outcome.SUCCEEDED
            lab.commit(None, *by["eve"])
            refused_for(lab, lab.send(), "its signer is on no list of the owner")
            key = keypair(tmp_path, "ssh")
            lab.commit(None, *signed_with(key))
            refused_for(lab, lab.send(), "of commit")
    finally:
        subprocess.run(("gpgconf", "--homedir", str(home), "--kill", "gpg-agent"), check=False)
