"""The console script: `--version` without loading anything, every other word through `cli.app`."""

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from pushtrain import __version__

        sys.stdout.write(f"pushtrain {__version__}\n")
        return
    from pushtrain.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
