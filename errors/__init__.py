"""Every error a user can cause, each with the remedy; `aoi.cli` alone turns them into exit codes."""

from __future__ import annotations


class AoiError(Exception):
    """What was wrong, in one sentence, and what to do about it in another.

    Args:
        message: one sentence naming the file, key or value at fault.
        hint: one sentence saying what to do; printed on its own line.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the trip back from a worker process, hint included."""
        return (_rebuild, (type(self), self.message, self.hint))

    def as_dict(self) -> dict[str, object]:
        """The error as `--json` prints it: type, message, hint and exit code."""
        return {"error": type(self).__name__, "message": self.message, "hint": self.hint, "exit_code": self.exit_code}


def _rebuild(kind: type[AoiError], message: str, hint: str) -> AoiError:
    return kind(message, hint=hint)


class ConfigError(AoiError):
    """A wrong option, an unknown key, an impossible combination of settings (exit 2)."""

    exit_code = 2


class DataError(AoiError):
    """Images, masks, data sets or folders that cannot be used as they are (exit 3)."""

    exit_code = 3


class ModelError(AoiError):
    """Weights, checkpoints or run folders that cannot be used as they are (exit 4)."""

    exit_code = 4


class BackendUnavailable(AoiError):
    """An optional library or device that is not there (exit 4)."""

    exit_code = 4
