"""The compiled parts of headrace. `headrace.native` decides whether they are used."""

from headrace_native._native import *  # noqa: F403
