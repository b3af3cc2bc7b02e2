"""Our own log on a person's terminal: a line names branches and jobs and repeats what other machines said."""

import logging

from pushtrain.cli.screen.terminal import clean


class SafeFormatter(logging.Formatter):
    """Log lines that a terminal only shows."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, cleaned."""
        return clean(super().format(record))
