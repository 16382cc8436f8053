"""Running a server in the foreground: one event loop, stopped by SIGINT or SIGTERM."""

import asyncio
import gc
import resource
import signal
from collections.abc import Awaitable, Callable

import uvloop

Serve = Callable[[asyncio.Event], Awaitable[None]]


def begin_start() -> None:
    """Collect no garbage until `end_start`: what a start makes, it keeps; looking for garbage is a fifth of its time."""
    gc.disable()


def end_start() -> None:
    """What is there by now is never looked at again by the collector, which works as usual from here on."""
    gc.freeze()
    gc.enable()


def run_until_stopped(serve: Serve) -> None:
    """Run `serve(stop)` to its end; SIGINT and SIGTERM set `stop`. What `serve` raises comes through.

    The process may open as many files as its hard limit allows: a node needs fourteen for each CVM.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await serve(stop)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
