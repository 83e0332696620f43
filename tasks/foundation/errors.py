"""Errors by cause. Each cause has one stable exit code, and says what, where, what is allowed and what to do.

The codes are a public contract: schedulers and scripts branch on them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import ClassVar

from tasks.foundation.values import Value

_GO_ON = "Run it again to go on from the last checkpoint"
FULL_DISK = "the disk is full"
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No space, no quota, or a limit on the size of files."""
_DISK_FULL_TEXTS = (
    "No space left on device",
    *(f"(os error {number})" for number in sorted(_DISK_FULL)),
    "PytorchStreamWriter failed writing file",
    "unexpected pos",
)
"""What libraries say of it that do not raise OSError: C, Rust, and torch.save, which leaves out the reason."""
_MEMORY_TEXTS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "memory allocation of",
    "alloc_failed",
    "bad_alloc",
    "failed to cuda calloc",
)
"""What torch (CPU, CUDA, HIP, MPS), cuBLAS, cuDNN, bitsandbytes, NCCL, Rust and C++ say, in lower case."""


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


class BatchTooLargeError(ResourceError):
    """Memory ran out while a training batch was on it: a smaller micro-batch needs less."""


class DependencyError(TunelineError):
    """A server (MLflow, Prefect, a hub) cannot be reached."""

    exit_code = 21


class DivergenceError(TunelineError):
    """The loss or the gradients became NaN or infinite."""

    exit_code = 30


class HangError(TunelineError):
    """A rank lives, but makes no progress: it waits for something that does not come."""

    exit_code = 31


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
        known = error if isinstance(error, TunelineError) else interruption(error) or shortage(error)
        if known is None:
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            return cls(cause=type(error).__name__, what=_printable(said), exit_code=TunelineError.exit_code)
        return cls(
            cause=type(known).__name__,
            what=_printable(known.what),
            where=_printable(known.where),
            allowed=_printable(known.allowed),
            fix=_printable(known.fix),
            exit_code=known.exit_code,
        )

    def error(self) -> TunelineError:
        """The exception that this record describes, ready to be raised: of its own class, or of its exit code's."""
        causes = _causes()
        cause = causes.get(self.cause) or causes.get(self.exit_code, TunelineError)
        return cause(self.what, where=self.where, allowed=self.allowed, fix=self.fix)


def interruption(error: BaseException) -> TunelineError | None:
    """The cause of what ends a program from outside (Ctrl-C, SIGTERM, a cancelled flow); None for an `Exception`."""
    if isinstance(error, KeyboardInterrupt):
        return InterruptedRunError("interrupted", fix=_GO_ON)
    return None if isinstance(error, Exception) else CancelledRunError("the run was cancelled", fix=_GO_ON)


def shortage(error: BaseException) -> ResourceError | None:
    """The cause of what Python, the system or a library raises when disk or memory run out; None for anything else.

    What an error was raised from, or while another one was handled, counts as well: a library that cannot finish its
    file complains of that, not of the disk.
    """
    for seen in _foreign(error):
        if (cause := _full_disk(seen) or _exhausted_memory(seen)) is not None:
            return cause
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """True for the memory of a device or of the machine, whichever library noticed; False for a full disk."""
    return any(_exhausted_memory(seen) is not None for seen in _foreign(error))


def _foreign(error: BaseException) -> Iterator[BaseException]:
    """The error and those that led to it, up to one that tuneline raised itself."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and not isinstance(current, TunelineError):
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _full_disk(error: BaseException) -> ResourceError | None:
    number = error.errno if isinstance(error, OSError) else None
    if number not in _DISK_FULL and not any(mark in str(error) for mark in _DISK_FULL_TEXTS):
        return None
    where = str(getattr(error, "filename", None) or "")
    return ResourceError(FULL_DISK, where=where, fix="Free some space and run it again")


def _exhausted_memory(error: BaseException) -> ResourceError | None:
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)
    exhausted = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    told = not isinstance(error, OSError) and any(mark in text.lower() for mark in _MEMORY_TEXTS)
    if not (exhausted or told or number == errno.ENOMEM):
        return None
    first_line = text.partition("\n")[0] or type(error).__name__
    return ResourceError(f"out of memory: {first_line}", fix="Lower the batch size or distributed.parallel_cells")


def _causes() -> dict[int | str, type[TunelineError]]:
    """Exit code -> cause, and name -> cause; a class that some noun adds shares the code of the one it refines."""
    here = [cause for cause in TunelineError.__subclasses__() if cause.__module__ == __name__]
    refined = [cause for kind in here for cause in kind.__subclasses__() if cause.__module__ == __name__]
    named: dict[int | str, type[TunelineError]] = {cause.__name__: cause for cause in (*here, *refined)}
    return named | {cause.exit_code: cause for cause in here}


def _printable(text: str) -> str:
    """Lone surrogates (file names that are no UTF-8) spelled out: JSON and terminals do not take them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
