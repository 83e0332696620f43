"""Errors by cause. Each cause has one stable exit code, and says what, where, what is allowed and what to do.

The codes are a public contract: schedulers and scripts branch on them.
"""

from __future__ import annotations

from typing import ClassVar

from tasks.foundation.values import Value


class TunelineError(Exception):
    """The root of everything that tuneline raises on purpose.

    Args:
        what: one sentence: what is wrong, with the value that was found.
        where: file, line and key as far as they are known (`a.yaml:12: methods[2].r`).
        allowed: what would have been accepted.
        fix: what to do now, as an imperative sentence.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", allowed: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.allowed = allowed
        self.fix = fix

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.allowed:
            parts.append(f"Allowed: {self.allowed}.")
        if self.fix:
            parts.append(self.fix if self.fix.endswith((".", "?")) else f"{self.fix}.")
        head, *rest = parts
        if rest and not head.endswith((".", "!", "?")):
            head += "."
        return " ".join(" ".join([head, *rest]).split())

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.allowed, self.fix))


def _rebuild(kind: type[TunelineError], what: str, where: str, allowed: str, fix: str) -> TunelineError:
    return kind(what, where=where, allowed=allowed, fix=fix)


class ConfigError(TunelineError):
    """The experiment, an override or an argument is wrong."""

    exit_code = 10


class DataError(TunelineError):
    """The data cannot be read, or too much of it is unusable."""

    exit_code = 11


class ModelError(TunelineError):
    """The base model, its tokenizer, or their pairing is wrong."""

    exit_code = 12


class ResourceError(TunelineError):
    """Memory, disk or an accelerator is missing."""

    exit_code = 20


class DependencyError(TunelineError):
    """A server (MLflow, Prefect, a hub) cannot be reached."""

    exit_code = 21


class DivergenceError(TunelineError):
    """The loss or the gradients became NaN or infinite."""

    exit_code = 30


class RankError(TunelineError):
    """A rank of the training gang died or broke off without saying why."""

    exit_code = 32


class IntegrityError(TunelineError):
    """A file is not what its digest says, or a proof failed."""

    exit_code = 40


class GateError(TunelineError):
    """A quality gate did not pass."""

    exit_code = 41


class ConflictError(TunelineError):
    """Somebody else changed the same thing first."""

    exit_code = 42


class InterruptedRunError(TunelineError):
    """Ctrl-C (SIGINT)."""

    exit_code = 130


class CancelledRunError(TunelineError):
    """SIGTERM: a cancel in Prefect, a scheduler's time limit, a spot notice."""

    exit_code = 143


def _causes() -> dict[str, type[TunelineError]]:
    return {cause.__name__: cause for cause in TunelineError.__subclasses__()}


class ErrorRecord(Value):
    """An error as it crosses a process boundary or rests in a file."""

    cause: str
    """Class name, for example `DataError`."""
    what: str
    where: str = ""
    allowed: str = ""
    fix: str = ""
    exit_code: int

    @classmethod
    def of(cls, error: BaseException) -> ErrorRecord:
        """Record any exception; one that tuneline did not foresee keeps its class name and exit code 1."""
        if isinstance(error, TunelineError):
            return cls(
                cause=type(error).__name__,
                what=error.what,
                where=error.where,
                allowed=error.allowed,
                fix=error.fix,
                exit_code=error.exit_code,
            )
        return cls(cause=type(error).__name__, what=f"{type(error).__name__}: {error}", exit_code=1)

    def error(self) -> TunelineError:
        """The exception that this record describes, ready to be raised."""
        cause = _causes().get(self.cause, TunelineError)
        return cause(self.what, where=self.where, allowed=self.allowed, fix=self.fix)
