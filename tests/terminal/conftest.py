"""Commands, run in this process."""

from __future__ import annotations

import sys

import pytest

import aoi.cli


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run `aoi` in this process: exit code, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aoi", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            aoi.cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
