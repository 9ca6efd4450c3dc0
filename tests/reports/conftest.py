"""Figures have PDF files only where a test asks for ``pdfs``."""

import pytest


@pytest.fixture(autouse=True)
def _no_pdfs(request: pytest.FixtureRequest) -> None:
    if "pdfs" not in request.fixturenames:
        request.getfixturevalue("no_pdfs")
