"""Exit codes, one-line texts, and errors that cross a process boundary."""

from __future__ import annotations

import errno
import pickle

import pytest

from tasks.foundation import errors
from tasks.foundation.errors import (
    BatchTooLargeError,
    CancelledRunError,
    DataError,
    ErrorRecord,
    InterruptedRunError,
    ResourceError,
    TunelineError,
)
from tasks.tracking.protocol import UnavailableError

CODES = {
    "ConfigError": 10,
    "DataError": 11,
    "ModelError": 12,
    "ResourceError": 20,
    "DependencyError": 21,
    "DivergenceError": 30,
    "HangError": 31,
    "RankError": 32,
    "IntegrityError": 40,
    "GateError": 41,
    "ConflictError": 42,
    "InterruptedRunError": 130,
    "CancelledRunError": 143,
}


def causes() -> dict[str, type[TunelineError]]:
    return {name: thing for name, thing in vars(errors).items() if name in CODES}


def test_every_cause_has_the_exit_code_that_schedulers_branch_on() -> None:
    assert {name: cause.exit_code for name, cause in causes().items()} == CODES
    assert TunelineError.exit_code == 1


def test_the_text_says_where_what_allowed_and_fix_in_one_line() -> None:
    error = DataError("no column 'ref'", where="a.csv:1", allowed="mr,\n  text", fix="Set data.columns")

    assert str(error) == "a.csv:1: no column 'ref'. Allowed: mr, text. Set data.columns."


def test_line_breaks_in_values_do_not_break_the_line() -> None:
    error = DataError("bad\r\nvalue\u2028x\ty", where="a\nb", fix="Look\n\nhere")

    assert str(error) == "a b: bad value x y. Look here."


def test_a_text_without_more_to_say_gets_no_full_stop() -> None:
    assert str(TunelineError("what")) == "what"
    assert str(TunelineError("is it so?", fix="Yes?")) == "is it so? Yes?"


@pytest.mark.parametrize("cause", causes().values(), ids=lambda cause: cause.__name__)
def test_an_error_is_the_same_after_pickling_and_after_a_file(cause: type[TunelineError]) -> None:
    error = cause("what", where="here", allowed="this", fix="do that")
    pickled = pickle.loads(pickle.dumps(error))  # noqa: S301
    recorded = ErrorRecord.model_validate_json(ErrorRecord.of(error).model_dump_json()).error()

    for copy in (pickled, recorded):
        assert type(copy) is cause
        assert (copy.what, copy.where, copy.allowed, copy.fix) == ("what", "here", "this", "do that")
        assert str(copy) == str(error)


def test_an_exception_that_nobody_foresaw_keeps_its_class_name_and_code_1() -> None:
    record = ErrorRecord.of(ZeroDivisionError("division by zero"))

    assert (record.cause, record.exit_code) == ("ZeroDivisionError", 1)
    assert type(record.error()) is TunelineError
    assert str(record.error()) == "ZeroDivisionError: division by zero"
    assert str(ErrorRecord.of(KeyError()).error()) == "KeyError"


def test_a_cause_that_a_noun_refined_keeps_its_exit_code() -> None:
    record = ErrorRecord.of(UnavailableError("MLflow is away"))

    assert record.cause == "UnavailableError"
    assert record.error().exit_code == 21


@pytest.mark.parametrize(
    ("raised", "cause"),
    [(KeyboardInterrupt(), InterruptedRunError), (SystemExit(143), CancelledRunError)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_what_ends_a_program_from_outside_is_no_error_of_the_program(
    raised: BaseException, cause: type[TunelineError]
) -> None:
    assert type(ErrorRecord.of(raised).error()) is cause


def test_a_refined_cause_of_our_own_is_itself_again_after_a_file() -> None:
    recorded = ErrorRecord.model_validate_json(ErrorRecord.of(BatchTooLargeError("at step 3")).model_dump_json())

    assert (type(recorded.error()), recorded.exit_code) == (BatchTooLargeError, 20)


def test_a_record_that_names_a_cause_of_a_newer_version_falls_back_to_its_exit_code() -> None:
    assert type(ErrorRecord(cause="CacheFullError", what="full", exit_code=20).error()) is ResourceError


FULL_DISKS = {
    "full disk": OSError(errno.ENOSPC, "No space left on device", "weights"),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "limit on files": OSError(errno.EFBIG, "File too large"),
    "safetensors": RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    "safetensors, limit": RuntimeError("Error while serializing: I/O error: File too large (os error 27)"),
    "torch.save": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
}

NO_MEMORY = {
    "Python": MemoryError(),
    "system": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "torch on a CPU": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried\nto allocate 8 bytes"),
    "torch on a GPU": type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2 GiB."),
    "CUDA": RuntimeError("CUDA error: out of memory"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "bitsandbytes": RuntimeError("Error out of memory at line 392 in file /src/csrc/pythonInterface.cpp"),
    "mmap": RuntimeError("unable to mmap 512 bytes from file <x>: Cannot allocate memory (12)"),
    "C++": RuntimeError("std::bad_alloc"),
}


@pytest.mark.parametrize("raised", [*FULL_DISKS.values(), *NO_MEMORY.values()], ids=[*FULL_DISKS, *NO_MEMORY])
def test_a_full_disk_or_memory_is_a_lack_of_resources_whoever_noticed(raised: Exception) -> None:
    assert ErrorRecord.of(raised).exit_code == 20
    assert errors.is_out_of_memory(raised) == (raised in NO_MEMORY.values())


def test_what_a_library_says_because_the_disk_was_full_is_a_full_disk() -> None:
    def fail() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "weights")
        finally:
            raise ValueError("archive is not closed")

    with pytest.raises(ValueError, match="not closed") as caught:
        fail()
    assert errors.shortage(caught.value).where == "weights"


def test_a_cause_of_our_own_is_not_taken_for_the_shortage_before_it() -> None:
    wrapped = RuntimeError("cannot go on")
    wrapped.__cause__ = DataError("broken")
    wrapped.__cause__.__cause__ = MemoryError()

    assert errors.shortage(wrapped) is None


def test_other_errors_of_the_system_and_our_own_are_no_lack_of_resources() -> None:
    assert errors.shortage(FileNotFoundError(errno.ENOENT, "No such file")) is None
    assert errors.shortage(DataError("No space left on device")) is None
    assert ErrorRecord.of(ResourceError("no GPU")).what == "no GPU"


def test_a_file_name_that_is_no_utf8_can_be_recorded() -> None:
    record = ErrorRecord.of(DataError("unreadable", where="data/\udcff.csv"))

    assert ErrorRecord.model_validate_json(record.model_dump_json()).where == "data/\\udcff.csv"
