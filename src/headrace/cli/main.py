"""The `headrace` command.

Owns what becomes of its errors, and the way to the command that is called.

- A `HeadraceError` ends as one paragraph and exit code 1, never as a traceback.
- Anything else that is raised is a mistake of ours: its name and message, how to see the traceback, exit code 1.
- Wrong usage exits with 2, an interrupt with 130.
- A worker is started by its supervisor, with words that nobody types: typer, which takes a tenth of the time until its
  first row, is for people (`headrace.cli.application`).
"""

from __future__ import annotations

import os
import sys

from headrace.cli.output import EXIT_ERROR, EXIT_INTERRUPTED, print_error, print_unexpected, wants_traceback
from headrace.errors import HeadraceError

WORKER = "worker"


def main() -> None:
    """Run the command line and exit."""
    words = sys.argv[1:]
    try:
        if words[:1] == [WORKER]:
            from headrace.cli.logging import set_up_logging

            set_up_logging()
            from headrace.cli.worker import worker

            sys.exit(worker(words[1:]))
        from headrace.cli.application import application

        application(words)()
    except HeadraceError as error:
        if wants_traceback():
            raise
        print_error(error)
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our answer went away (`headrace read | head`); nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_ERROR)
    except Exception as error:  # The last resort: named, counted as failure, traceback on request.
        if wants_traceback():
            raise
        print_unexpected(error)
        sys.exit(EXIT_ERROR)
