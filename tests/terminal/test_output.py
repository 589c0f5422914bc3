"""What is said of long work where no bar can be drawn."""

from __future__ import annotations

import pytest

from aoi.terminal import output


def test_a_stage_that_begins_again_counts_its_time_anew(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a stage that never reports 0, the time since its first turn was taken for this one's."""
    now = [0.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    with output.progress_bars() as progress:
        for begin in (0.0, 1000.0):
            for step in range(1, 5):
                now[0] = begin + 11 * step
                progress("patches", step, 4)
    said = capsys.readouterr().err.splitlines()
    assert said == ["patches: 2/4, about 22 s left", "patches: 3/4, about 11 s left", "patches: 4/4, about 0 s left"] * 2
