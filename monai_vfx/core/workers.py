"""Many tasks over processes: few in flight, and one that kills its process stops no other."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

IN_FLIGHT = 2
"""Tasks that wait or run for each process: what bounds the memory."""
_pickled: bytes = b""
_function: Any = None


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int,
    died: Callable[[Task], Result],
) -> Iterator[tuple[Task, Result]]:
    """Yield each task with its result, as they end.

    Args:
        function: can be pickled, which is done once for each process, so that what it loads stays
            loaded; what it raises is raised here and ends all.
        tasks: can be pickled.
        workers: processes. Even with one the work is done in a process of its own, as decoders of
            damaged pixels have been known to crash. 0 works in this process.
        died: gives the result of a task whose process died; called in this process.
    """
    if workers == 0:
        yield from ((task, function(task)) for task in tasks)
        return
    waiting = list(reversed(tasks))
    while waiting:
        flying: dict[Future[Result], Task] = {}
        try:
            with _pool(workers, function) as pool:
                while waiting or flying:
                    while waiting and len(flying) < IN_FLIGHT * workers:
                        future = pool.submit(_call, waiting[-1])  # may find the pool broken
                        flying[future] = waiting.pop()
                    done, _ = wait(flying, return_when=FIRST_COMPLETED)
                    for future in done:
                        result = future.result()
                        yield flying.pop(future), result
        except BrokenProcessPool:
            # Any of those in flight may be the one; each gets a process of its own.
            for task in flying.values():
                yield task, _alone(function, task, died)


def _alone(
    function: Callable[[Task], Result], task: Task, died: Callable[[Task], Result]
) -> Result:
    try:
        with _pool(1, function) as pool:
            result: Result = pool.submit(_call, task).result()
            return result
    except BrokenProcessPool:
        return died(task)


def _pool(workers: int, function: Callable[[Any], Any]) -> ProcessPoolExecutor:
    # Spawned, not forked: the caller may hold threads of torch.
    context = multiprocessing.get_context("spawn")
    arguments = (workers, pickle.dumps(function))
    return ProcessPoolExecutor(workers, context, initializer=_start, initargs=arguments)


def _start(workers: int, pickled: bytes) -> None:
    global _pickled
    _share_cores(workers)
    _pickled = pickled


def _call(task: Any) -> Any:
    global _function
    if _function is None:
        _function = pickle.loads(_pickled)
    return _function(task)


def _share_cores(workers: int) -> None:
    """Let numerical libraries of a process use their share of the cores.

    A spawned process imports the caller's script before this is called, and with it perhaps numpy
    or torch, which then no longer look at the environment. Two trainings of two threads each on two
    cores were seen to wait for each other's threads: twenty times as slow as with one thread.
    """
    from threadpoolctl import threadpool_limits

    share = str(max(1, (os.cpu_count() or 1) // workers))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, share)
    os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", share)
    threads = os.environ["OMP_NUM_THREADS"]
    if threads.isdigit():
        threadpool_limits(int(threads))
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(int(threads))
