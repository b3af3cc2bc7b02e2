"""The console script: `--version` without loading anything, every other word through `cli.app`."""

import gc
import io
import os
import sys

_GARBAGE_THRESHOLD = 100_000
"""Objects made between two looks for garbage: more than a start makes, so that no look falls into it."""
_STREAMS = 3


def main() -> None:
    """Run the command line and exit with its status."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from pushtrain import __version__

        sys.stdout.write(f"pushtrain {__version__}\n")
        return
    gc.set_threshold(_GARBAGE_THRESHOLD)
    # No other package's code takes part in our checks; to look for some costs every start 10 ms.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows only ASCII
    from pushtrain.cli.app import run

    status = run(sys.argv[1:])
    gc.freeze()  # or Python looks through everything once more before it ends, a fifth of a short verb's time
    sys.exit(status)


def _open_what_is_closed() -> None:
    """Have all three standard streams, so that no file of ours becomes somebody's standard output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < _STREAMS:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115  for as long as we live
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115  for as long as we live
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115  for as long as we live


if __name__ == "__main__":
    main()
