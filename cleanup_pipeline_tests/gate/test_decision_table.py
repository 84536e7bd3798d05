"""docs/gate.md tells what the gate does."""

from cleanup_pipeline_tests.gate.decision_table import COMMAND, DOCUMENT, document


def test_the_document_has_the_cases_of_the_tests() -> None:
    assert DOCUMENT.read_text() == document(), f"docs/gate.md is out of date: run `{COMMAND}`"
