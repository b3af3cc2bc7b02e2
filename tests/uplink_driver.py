"""Be an executor for one attempt: take an uplink and run commands in it, one for each line of standard input.

`python uplink_driver.py FOLDER [WORD…]`: the words stand before each command (bubblewrap, for example). A
line is a JSON list of words; the answer is a JSON object with `out`, `err` and `code`. The first line that
it prints tells the keeper's process id, or why there is no uplink.
"""

import json
import subprocess
import sys
from pathlib import Path

from pushtrain.core.errors import ConfigError
from pushtrain.plumbing.isolation.uplink import Uplinks


def main(folder: Path, around: list[str]) -> None:
    uplinks = Uplinks(folder)
    try:
        uplink = uplinks.take()
    except ConfigError as error:
        print(json.dumps({"why": error.message, "mend": error.mend}), flush=True)
        return
    print(json.dumps({"keeper": uplink.pid, "own_user_namespace": uplink.user is not None}), flush=True)
    for line in sys.stdin:
        done = subprocess.run(
            [*uplink.enter, *around, *json.loads(line)],
            pass_fds=uplink.descriptors,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        print(json.dumps({"out": done.stdout, "err": done.stderr, "code": done.returncode}), flush=True)
    uplink.close()
    uplinks.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
