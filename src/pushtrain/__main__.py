"""The console script: `--version` without loading anything, every other word through `cli.app`."""

import gc
import sys

_GARBAGE_THRESHOLD = 50_000
"""Objects made between two looks for garbage: the default of 700 costs a tenth of every start."""


def main() -> None:
    """Run the command line and exit with its status."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from pushtrain import __version__

        sys.stdout.write(f"pushtrain {__version__}\n")
        return
    gc.set_threshold(_GARBAGE_THRESHOLD)
    from pushtrain.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
