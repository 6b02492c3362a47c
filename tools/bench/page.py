"""What was measured, in a page of Markdown that says the rest in words.

It stands between two comments that name the table, and only that is written anew:

    <!-- measured: swarm -->
    …
    <!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.bench.report import Budget, Report, markdown_table
from tools.failures import CommandError

_PLACE = re.compile(r"(<!-- measured: (?P<name>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def write_page(
    page: Path,
    title: str,
    report: Report,
    budgets: Mapping[str, Sequence[Budget]],
    drawn: Mapping[str, str],
) -> None:
    """Put what was measured into a page, which is begun where there is none.

    Args:
        title: of a page that is begun.
        budgets: those of each part.
        drawn: SVGs by the names of their files, which are put beside the page.

    Raises:
        CommandError: it cannot be read or written.
    """
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        sections = _sections(report, budgets)
        text = page.read_text("utf-8") if page.exists() else _begun(title, sections)
        page.write_text(filled(text, sections), "utf-8")
        for name, svg in drawn.items():
            (page.parent / name).write_text(svg, "utf-8")
    except OSError as exc:
        raise CommandError(
            f"{page.parent} cannot be written to: {exc.strerror}",
            next_step="Give --write a folder that you may write to.",
        ) from exc


def filled(text: str, sections: Mapping[str, str]) -> str:
    """A page with these sections in their places; those of which nothing is here stay."""

    def anew(found: re.Match[str]) -> str:
        section = sections.get(found["name"])
        return found[0] if section is None else f"{found[1]}\n{section}\n\n{found[3]}"

    return _PLACE.sub(anew, text)


def _sections(report: Report, budgets: Mapping[str, Sequence[Budget]]) -> dict[str, str]:
    line = report.machine_line()
    sections = {
        name: "\n".join([line, "", *markdown_table(columns, report.rows_of(name))])
        for name, (_, columns) in report.tables.items()
        if report.rows_of(name)
    }
    return sections | {
        f"budgets of {part}": "\n".join(one.line() for one in judged)
        for part, judged in budgets.items()
    }


def _begun(title: str, sections: Mapping[str, str]) -> str:
    places = [f"<!-- measured: {name} -->\n<!-- end -->\n" for name in sections]
    return "\n".join([f"# {title}\n", *places])
