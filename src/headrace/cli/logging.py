"""Logs of a process: one event per line, to standard error.

Owns the structlog set-up.

- On a terminal lines are for people, elsewhere JSON; `HEADRACE_LOG_FORMAT=json|console` chooses.
- `HEADRACE_LOG_LEVEL` is debug, info (default), warning or error.
- Standard output belongs to a command's answer; no log line ever goes there.
- Lines of a pipeline's, ingress's or egress's threads carry its name (context variables of structlog).
- rich stays out, unless it is there: structlog would load it for tracebacks that are not wanted, a third of the time
  that it takes itself, in every process.
- Tracebacks show code, never the values of variables: these may be records or secrets.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def set_up_logging(**bound: str) -> None:
    """Set up structlog and the standard library's logging; `bound` goes into every line."""
    with _hidden("rich"):
        import structlog

    def add_bound(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        # Context variables belong to a thread; this holds for the whole process.
        return {**bound, **event}

    level = LEVELS.get(os.environ.get("HEADRACE_LOG_LEVEL", "info").lower(), logging.INFO)
    logging.basicConfig(level=max(level, logging.WARNING), stream=sys.stderr, format="%(name)s: %(message)s")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_bound,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_renderers(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=_StandardError()),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )


@contextlib.contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Let an import of `name` fail as if it were not installed, unless it was imported before."""
    if name in sys.modules:
        yield
        return
    # None stands for a module that is not to be found.
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


class _StandardError:
    """Standard error as it is at each line.

    Where nobody reads it any more the line is lost and the work goes on: a log must not stop what it tells of.
    """

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def _renderers() -> list[Any]:
    import structlog

    chosen = os.environ.get("HEADRACE_LOG_FORMAT", "console" if sys.stderr.isatty() else "json")
    if chosen == "console":
        # Not the default, which prints local variables where rich is installed.
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
