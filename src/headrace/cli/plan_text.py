"""A workspace plan for people.

Owns the text of `headrace plan` and `headrace apply`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.cli.output import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.workspace.changes import Change
    from headrace.workspace.plan import WorkspacePlan

STYLES = {"+": "green", "~": "yellow", "!": "bold red"}


def show_plan(plan: WorkspacePlan, *, explain: bool = False) -> None:
    """Print the plan."""
    out = console()
    out.print(f"workspace {plan.workspace}, environment {plan.environment} ({plan.log} log)", markup=False)
    for title, changes in (("topics", plan.topics), ("schemas", plan.schemas), ("ingress", plan.ingress)):
        _show_changes(title, changes)
    _show_warnings(plan)
    if plan.pipelines:
        _show_pipelines(plan, explain=explain)
    if plan.egress:
        out.print("\negress")
        for checked in plan.egress:
            text = f"{checked['name']}: {checked['topic']} to {checked['connector']} ({checked['delivery']})"
            out.print(f"  {text}", markup=False)
    if plan.problems:
        out.print("\nproblems")
        for problem in plan.problems:
            out.print(f"  ! [{problem.code}] {problem}", style=STYLES["!"], markup=False)
    out.print()


def summary(plan: WorkspacePlan) -> str:
    """The last line of `headrace plan`."""
    if plan.problems:
        count = len(plan.problems)
        return f"{count} problem{'s' if count != 1 else ''}: nothing can be applied."
    count = len(plan.changes)
    if not count:
        return "Nothing to change."
    return f"{count} change{'s' if count != 1 else ''}; `headrace apply` makes {'them' if count != 1 else 'it'}."


def _show_changes(title: str, changes: Sequence[Change]) -> None:
    from headrace.workspace.changes import SIGNS

    if not changes:
        return
    out = console()
    out.print(f"\n{title}")
    width = max(len(change.target) for change in changes)
    for change in changes:
        sign = SIGNS[change.action]
        line = f"  {sign} {change.target.ljust(width)}  {change.summary}"
        out.print(line, style=STYLES[sign], markup=False)


def _show_warnings(plan: WorkspacePlan) -> None:
    warned = [(verdict.subject, text) for verdict in plan.verdicts for text in verdict.warnings]
    if not warned:
        return
    out = console()
    out.print("\nwarnings")
    for subject, text in warned:
        out.print(f"  ~ {subject}: {text}", style=STYLES["~"], markup=False)


def _show_pipelines(plan: WorkspacePlan, *, explain: bool) -> None:
    out = console()
    out.print("\npipelines")
    for pipeline in plan.pipelines:
        reads, writes = ", ".join(pipeline.source_topics()), ", ".join(each.topic for each in pipeline.outputs)
        out.print(f"  {pipeline.name}: reads {reads}, writes {writes}", markup=False)
        if explain:
            from headrace.flow.explain import explain as explained

            for line in explained(pipeline).splitlines():
                out.print(f"    {line}", markup=False)
