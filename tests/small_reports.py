"""Reports without what takes long and few tests look at."""

import pytest


@pytest.fixture
def no_pdfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures have no PDF files: their fonts take as long as all the rest of a small report."""
    from reports.visual.core import style

    encoded = style._encoded
    monkeypatch.setattr(
        style, "_encoded", lambda figure, kind, dpi: b"%PDF" if kind == "pdf" else encoded(figure, kind, dpi)
    )


@pytest.fixture
def pdfs() -> None:
    """For tests that look at PDF files, where others have none."""
