"""The decision table of docs/gate.md, from the cases of test_decision.py; as a program it writes them down."""

from collections.abc import Iterator
from pathlib import Path

from cleanup_pipeline_tests.gate.test_decision import HEADED_CASES, Case

DOCUMENT = Path(__file__).parents[2] / "docs" / "gate.md"
COMMAND = "python -m cleanup_pipeline_tests.gate.decision_table"
MARK = f"<!-- From here on written by `{COMMAND}`: change the cases in test_decision.py. -->"

STATES = {
    "waiting": "waits",
    "held": "waits, and is late",
    "open": "opens",
    "running": "a run is on",
    "done": "done",
    "failed": "a person is needed",
    "off": "off",
}


def document() -> str:
    """The document as it should be: what people wrote, then the tables."""
    written, _, _ = DOCUMENT.read_text().partition(MARK)
    return "\n".join([written + MARK, *_tables(), ""])


def _tables() -> Iterator[str]:
    for case in HEADED_CASES:
        if isinstance(case, Case):
            at = case.now if case.now.count(":") == 2 else f"{case.now}:00"
            starts = "**starts a run**" if case.launch else STATES[case.state]
            yield f"| {_cell(case.name)} | {at} | {starts} | {_cell(case.reason)} |"
        else:
            yield from ("", f"### {case}", "", "| situation | at (UTC) | the gate | it says |")
            yield "| --- | --- | --- | --- |"


def _cell(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}".replace("|", "\\|")


if __name__ == "__main__":
    DOCUMENT.write_text(document())
