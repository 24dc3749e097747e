"""Data-loading workers: batches from other processes, and their errors in one line.

An exception in a worker would arrive as torch's nested traceback. If a worker cannot move a batch into shared memory
after its task, torch prints the error and the training waits for ever; so batches are moved within the task.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import re
import signal
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ...errors import LgcError, TrainingError
from ...plugins import describe_error
from .workers import SHARED_MEMORY

Key = TypeVar("Key")
Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
KEPT = "the last checkpoint, if any, is kept"
_SHARED_MEMORY_REMEDY = f"Use --workers 0, or enlarge {SHARED_MEMORY} (Docker: --shm-size 8g)"
_SHARED_MEMORY_SIGNS = (
    "allocate shared memory",
    "out of shared memory",
    "insufficient shared memory",
    "resize file </torch_",
)
"""Parts of torch's error messages for exhausted shared memory."""
_TOO_MANY_FILES_SIGNS = (os.strerror(errno.EMFILE), "items of ancdata")
_MEMORY_SIGNS = ("allocate memory", "out of memory")
"""Parts of torch's error messages for exhausted memory of the machine or the device."""
_EXITED = "exited unexpectedly with exit code {}"
_DEATH = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\) "
    r"(?:is killed by signal: (?P<signal>[^.]+)|exited unexpectedly(?: with exit code (?P<code>-?\d+))?)"
)
"""Torch's messages for a worker that has ended; the second form has no exit code if torch does not know it."""


def load_in_workers(
    dataset: Dataset[Item],
    batches: Iterable[list[Key]],
    collate: Callable[[Sequence[Item]], Loaded],
    workers: int,
    *,
    name_item: Callable[[Key], object],
    pin: bool = False,
) -> Generator[Loaded]:
    """Yield a batch for each list of keys: `collate` of the items of the dataset.

    Workers start with the first batch. Do not iterate in the main thread: there torch raises the death of a worker by a
    signal handler, at any instruction, which may leave a lock that is never released.

    Args:
        dataset: items by key; it travels to the workers under the start methods `spawn` and `forkserver`.
        batches: keys of each batch.
        collate: function of a module, as it travels too; its tensors may be in tuples, lists, mappings and dataclasses.
        workers: number of processes; 0 loads in this one.
        name_item: name of an item for messages, e.g. its file.
        pin: Put tensors into pinned memory.

    Raises:
        LgcError: as the dataset and `collate` raise it.
        TrainingError: a worker raised another error, or cannot be started.
        MemoryError: a worker is out of memory.
        RuntimeError: a worker has died, or is out of shared memory; `explain_worker_error` explains it.
    """
    _require_queues(workers)
    loader: DataLoader[Any] = DataLoader(
        _GuardedDataset(dataset),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_GuardedCollate(collate),
        pin_memory=pin,
    )
    iterator = _start_workers(loader)
    try:
        for batch in iterator:
            if isinstance(batch, _Failure):
                raise batch.to_error(name_item)
            yield batch
    except RuntimeError:
        if (death := _find_death(iterator)) is not None:
            raise death from None  # torch's error knows no signal
        raise
    finally:
        getattr(iterator, "_shutdown_workers", int)()  # a single process has none


def _start_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """Return the iterator of a loader, which starts its workers.

    Raises:
        TrainingError: the system has no memory or no process left for a worker; none is left behind.
    """
    try:
        return iter(loader)
    except OSError as error:
        for frame, _ in traceback.walk_tb(error.__traceback__):  # torch leaves its iterator half made
            if workers := getattr(frame.f_locals.get("self"), "_workers", None):
                iterator = frame.f_locals["self"]
                iterator._workers_status = [True] * len(workers)
                iterator._shutdown_workers()
        message = f"cannot start {loader.num_workers} data-loading workers: {error.strerror or error}. Lower --workers"
        raise TrainingError(explain_worker_error(error) or message) from error


def _find_death(iterator: Any) -> RuntimeError | None:
    """Return an error in torch's words with the exit code of a worker that has ended; None if none has."""
    for worker in getattr(iterator, "_workers", ()):
        if code := worker.exitcode:
            cause = f"is killed by signal: {signal.strsignal(-code)}." if code < 0 else _EXITED.format(code)
            return RuntimeError(f"DataLoader worker (pid {worker.pid}) {cause}")
    return None


def explain_worker_error(error: BaseException) -> str | None:
    """Return what is wrong with the data-loading workers and the remedy, in one line; None for other errors."""
    if not isinstance(error, RuntimeError | OSError):
        return None
    message = (
        f"{error.__cause__}; {error}"  # torch's error of a wait has that of the worker, which is more exact, as cause
    )
    if death := _DEATH.search(message):
        return _explain_death(**death.groupdict())
    if any(sign in message for sign in _SHARED_MEMORY_SIGNS):
        return _explain_shared_memory()
    if any(sign in message for sign in _TOO_MANY_FILES_SIGNS):
        return f"too many open files; {KEPT}. Lower --workers, or raise the limit with ulimit -n"
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for an error that means that the machine or the device is out of memory."""
    is_torch = isinstance(error, RuntimeError) and any(sign in str(error) for sign in _MEMORY_SIGNS)
    return is_torch or isinstance(error, MemoryError | torch.OutOfMemoryError)


def _explain_death(pids: str, signal: str | None, code: str | None) -> str:
    """Return what ended a worker; the cause is unknown if neither `signal` nor `code` is known."""
    worker = f"the data-loading worker with process id {pids.strip()}"
    resume = "run the same command again to resume"
    if signal == "Terminated":
        return f"{worker} was terminated by another program; {KEPT}: {resume}"
    if signal == "Bus error":
        return (
            f"{worker} crashed (Bus error): {SHARED_MEMORY} ({_describe_shared_memory()}) was full, or a file that it "
            f"reads became shorter; {KEPT}. {_SHARED_MEMORY_REMEDY}"
        )
    if signal not in (None, "Killed") or code is not None:
        cause = f"crashed ({signal})" if signal else f"ended with exit code {code}"
        return f"{worker} {cause}; {KEPT}. Use --workers 0, which shows the error itself if it comes again"
    cause = "was killed, probably" if signal else "crashed or was killed, perhaps"
    return f"{worker} {cause} by the system because memory ran out; {KEPT}. Lower --workers, and {resume}"


def _explain_shared_memory() -> str:
    return (
        f"out of shared memory: {SHARED_MEMORY} ({_describe_shared_memory()}), through which data-loading workers send "
        f"images, is too small; {KEPT}. {_SHARED_MEMORY_REMEDY}"
    )


def _describe_shared_memory() -> str:
    """Return the size of the shared memory as text."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return "missing"
    return f"{max(status.f_blocks * status.f_frsize / 1e6, 0.1):,.1f} MB".replace(".0", "")


def _require_queues(workers: int) -> None:
    """Check that the queues of workers, whose semaphores are in shared memory, can be made.

    Torch's loader leaves a traceback on stderr if it cannot make them.
    """
    try:
        queues: list[multiprocessing.Queue[object]] = [multiprocessing.Queue() for _ in range(2 * workers)]
        for queue in queues:
            queue.close()
    except OSError as error:
        message = _explain_shared_memory() if error.errno == errno.ENOSPC else explain_worker_error(error)
        raise TrainingError(
            message or f"cannot start {workers} data-loading workers: {error.strerror or error}. Use --workers 0"
        ) from error


@dataclass(frozen=True)
class _Failure:
    """Error of a worker, as a value.

    Attributes:
        error: error that survives the journey to the training process.
        is_unexpected: True for an error that lgc does not raise on purpose.
        key: key of the item that failed; None if the batch did.
    """

    error: Exception
    is_unexpected: bool
    key: Any

    def to_error(self, name_item: Callable[[Any], object]) -> Exception:
        """Return the error to raise in the training process."""
        if not self.is_unexpected:
            return self.error
        place = "" if self.key is None else f" while loading {name_item(self.key)}"
        return TrainingError(
            f"a data-loading worker failed{place}: {self.error}; {KEPT}. Use --workers 0, which shows the traceback"
        )


def _capture(error: Exception, key: object = None) -> _Failure:
    """Return an error of a worker as a value; without workers, raise it."""
    if get_worker_info() is None:
        raise error
    if isinstance(error, LgcError):
        return _Failure(error if _survives_pickling(error) else TrainingError(str(error)), False, key)
    if is_out_of_memory(error):
        return _Failure(MemoryError(str(error)), False, key)
    if explain_worker_error(error) is not None:
        return _Failure(RuntimeError(str(error)), False, key)
    return _Failure(RuntimeError(describe_error(error)), True, key)


def _survives_pickling(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))  # some errors have other arguments than their message
    except Exception:
        return False
    return True


class _GuardedDataset(Dataset[Any]):
    """A dataset whose errors are values."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, key: object) -> Any:
        try:
            return self._dataset[key]
        except Exception as error:
            return _capture(error, key)


class _GuardedCollate(Generic[Item, Loaded]):
    """A function that makes a batch of items, whose errors are values; a worker's batch is in shared memory."""

    def __init__(self, collate: Callable[[Sequence[Item]], Loaded]) -> None:
        self._collate = collate

    def __call__(self, items: Sequence[Item | _Failure]) -> Loaded | _Failure:
        loaded: list[Item] = []
        for item in items:
            if isinstance(item, _Failure):
                return item
            loaded.append(item)
        try:
            batch = self._collate(loaded)
            if get_worker_info() is not None:
                _share_memory(batch)
        except Exception as error:
            return _capture(error)
        return batch


def _share_memory(batch: object) -> None:
    """Move the tensors of a batch into shared memory."""
    if isinstance(batch, Tensor):
        batch.share_memory_()  # type: ignore[no-untyped-call]
    elif isinstance(batch, Mapping):
        _share_memory(list(batch.values()))
    elif isinstance(batch, list | tuple):
        for part in batch:
            _share_memory(part)
    elif hasattr(batch, "__dataclass_fields__"):
        _share_memory(vars(batch))
