"""Remove each defence and see its test fail: a test of security that stays green proves nothing.

    python scripts/defences.py [WORD]      those whose test, file or text holds WORD; all without one

`tests/defences.toml` names them: a file, the text of the defence, what to put in its place, and the test that
must fail then. Each is tried on a copy of `src` in a temporary folder; nothing here is changed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PATIENCE = ("--timeout", "90")
"""A test that waits for ever without its defence has seen it gone."""
FAILED = 1
"""pytest's exit code where a test failed; anything else (nothing found, a wrong call) is no proof."""


@dataclass(frozen=True)
class Defence:
    """One defence, and the test that must see it gone."""

    file: str
    before: str
    after: str
    test: str

    def remove(self, folder: Path) -> None:
        """Remove it from a copy of the sources."""
        path = folder / self.file
        text = path.read_text()
        if text.count(self.before) != 1:
            raise SystemExit(f"{self.file} does not hold this once: {self.before!r}")
        path.write_text(text.replace(self.before, self.after))


def listed() -> list[Defence]:
    """Every defence of the list."""
    document = tomllib.loads((ROOT / "tests/defences.toml").read_text())
    return [Defence(**each) for each in document["defence"]]


def seen(defence: Defence) -> bool:
    """Whether its test fails without it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # some tests become another user
        shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
        defence.remove(folder)
        done = subprocess.run(
            (sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", *_PATIENCE, defence.test),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(folder / "src"), "HYPOTHESIS_STORAGE_DIRECTORY": name},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=300,
        )
        said = done.stdout + done.stderr
        if "SyntaxError" in said or "ImportError" in said or "IndentationError" in said:
            print(said[-2000:])
            return False
    return done.returncode == FAILED


def main(words: list[str]) -> int:
    """Try them; say which tests stayed green."""
    green = []
    for defence in listed():
        if words and not any(word in f"{defence.test}\n{defence.file}\n{defence.before}" for word in words):
            continue
        begun = time.monotonic()
        red = seen(defence)
        print(f"{'red  ' if red else 'GREEN'} {time.monotonic() - begun:5.1f} s  {defence.test}", flush=True)
        if not red:
            green.append(defence)
    for defence in green:
        print(f"\n{defence.test} does not see that this is gone from {defence.file}:\n{defence.before}")
    return 1 if green else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
