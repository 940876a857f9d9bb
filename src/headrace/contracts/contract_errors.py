"""The errors of contract files, collected so that one run shows them all.

Owns `ContractInvalid`, `ContractsInvalid` and the collector `Problems`.

- Each problem names file, line and what to do.
- Nothing is built from a file with a problem.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.errors import HeadraceError, Where


class ContractInvalid(HeadraceError):
    """A contract file that says something wrong. `problems` holds each thing that is, this one included."""

    code = "contracts.invalid"

    def __init__(self, message: str, *, where: Where | None = None, cure: str = "") -> None:
        super().__init__(message, where=where, cure=cure)
        self.problems: tuple[HeadraceError, ...] = (self,)


class ContractsInvalid(ContractInvalid):
    """Several problems, each on a line of its own."""

    def __init__(self, problems: Sequence[HeadraceError]) -> None:
        assert len(problems) > 1, "one problem is raised as itself"
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class Problems:
    """What was found wrong so far."""

    def __init__(self) -> None:
        self._found: list[HeadraceError] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, message: str, where: Where | None, cure: str = "") -> None:
        self._found.append(ContractInvalid(message, where=where, cure=cure))

    def take(self, error: HeadraceError) -> None:
        """Keep an error raised elsewhere; one that holds several counts as those."""
        self._found.extend(error.problems if isinstance(error, ContractInvalid) else (error,))

    def raise_if_any(self) -> None:
        """Raises the only problem, or `ContractsInvalid` with all of them."""
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            raise ContractsInvalid(self._found)
