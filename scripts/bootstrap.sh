#!/usr/bin/env bash
# Make .venv with everything that `make demo` needs; with `test` also the Debian packages that tests start for real.
# Needs Python >= 3.11 and git; installs the rest, and says what to do where it may not.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'bootstrap: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo "$@"
  else return 1
  fi
}

debian() { # debian PACKAGE...: install, or tell how
  command -v apt-get >/dev/null || fail "please install: $*"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null 2>&1 && return
  { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"; } >/dev/null 2>&1 ||
    fail "please run: sudo apt-get install $*"
}

find_python() {
  local name
  for name in "${PYTHON:-python3}" python3 python3.14 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$name" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  fail "pushtrain needs Python 3.11 or later; none was found (set PYTHON=/path/to/python)"
}

command -v git >/dev/null || debian git

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  python=$(find_python)
  "$python" -c 'import ensurepip, venv' 2>/dev/null || debian python3-venv
  rm -rf .venv
  "$python" -m venv .venv
fi
wanted=$(sed -n '/^name = "uv"$/{n;s/version = "\(.*\)"/\1/p;}' uv.lock)
if [ "$(.venv/bin/uv --version 2>/dev/null | cut -d' ' -f2)" != "$wanted" ]; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$wanted"
fi
UV_PROJECT_ENVIRONMENT="$PWD/.venv" .venv/bin/uv sync --frozen --quiet

# Jobs are kept apart by the one and reach public addresses alone by the other. The demo runs without them, too, and
# says so; the tests of that level need them.
for program in bwrap:bubblewrap slirp4netns:slirp4netns; do
  command -v "${program%:*}" >/dev/null || (debian "${program#*:}") ||
    echo "bootstrap: ${program#*:} is missing, so jobs are less isolated: sudo apt-get install ${program#*:}" >&2
done
if [ "${1:-}" = test ]; then
  command -v ip >/dev/null || debian iproute2   # the networks that tests are attacked in
  command -v git-lfs >/dev/null || debian git-lfs
  [ -x /usr/sbin/sshd ] || command -v sshd >/dev/null || debian openssh-server   # the ssh tunnel is tried against a real one
  command -v systemd-analyze >/dev/null || debian systemd   # reads and rates the units; it does not start them
fi
touch .venv/ready
