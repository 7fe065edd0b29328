"""`python bench/_limit_server.py DIRECTORY [worker]`: a daemon's way of a job, nothing in it.

A ROUTER for apps and one for a worker in a process of its own, and a thread that commits: to accept
a job one row is inserted, to end it one is updated. Nobody is checked, nothing is decided, nothing
decoded, nobody told of progress. What remains is what the sockets, the disk and the interpreter
take on this machine, so no daemon of this construction can be quicker.
"""

from __future__ import annotations

import os
import queue
import secrets
import sqlite3
import sys
import threading
from collections import deque
from pathlib import Path

import zmq

from _limit import RESULT, SOCKET

ACCEPT, END = 0, 1


class Committer:
    """The thread that writes: all that waits in one transaction, then the loop is woken."""

    def __init__(self, file: Path) -> None:
        self.bell, self._ring = os.pipe()
        self.written: deque[tuple[int, bytes]] = deque()
        self._asked: queue.SimpleQueue[tuple[int, bytes, bytes]] = queue.SimpleQueue()
        self._file = file
        threading.Thread(target=self._serve, daemon=True).start()

    def ask(self, what: int, job: bytes, said: bytes = b"") -> None:
        """Have it written."""
        self._asked.put((what, job, said))

    def _serve(self) -> None:
        database = sqlite3.connect(self._file, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE jobs (id BLOB PRIMARY KEY, said BLOB, ended INT)")
        while True:
            batch = [self._asked.get()]
            while not self._asked.empty():
                batch.append(self._asked.get())
            forced = any(what == ACCEPT for what, _, _ in batch)
            database.execute(f"PRAGMA synchronous = {'FULL' if forced else 'NORMAL'}")
            database.execute("BEGIN IMMEDIATE")
            for what, job, said in batch:
                if what == ACCEPT:
                    database.execute("INSERT INTO jobs VALUES (?, ?, 0)", (job, said))
                else:
                    database.execute("UPDATE jobs SET ended = 1 WHERE id = ?", (job,))
            database.execute("COMMIT")
            self.written.extend((what, job) for what, job, _ in batch)
            os.write(self._ring, b"!")


class Server:
    """The loop."""

    def __init__(self, directory: Path) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._apps, self._workers = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
        self._workers.bind(f"ipc://{directory / 'limit.workers'}")
        self._committer = Committer(directory / "limit.sqlite3")
        self._owners: dict[bytes, bytes] = {}
        self._waiting: deque[bytes] = deque()
        self._worker: bytes | None = None
        self._idle = False
        self._apps.bind(f"ipc://{directory / SOCKET}")

    def serve(self) -> None:
        """For ever."""
        poller = zmq.Poller()
        for one in (self._apps, self._workers, self._committer.bell):
            poller.register(one, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._apps in ready:
                self._hear_app(*self._apps.recv_multipart())
            if self._workers in ready:
                self._hear_worker(*self._workers.recv_multipart())
            if self._committer.bell in ready:
                os.read(self._committer.bell, 1 << 12)
                while self._committer.written:
                    self._tell(*self._committer.written.popleft())

    def _hear_app(self, app: bytes, said: bytes) -> None:
        if b"hello" in said:
            self._apps.send_multipart([app, b"welcome"])
            return
        job = secrets.token_bytes(16)
        self._owners[job] = app
        self._committer.ask(ACCEPT, job, said)
        self._waiting.append(job)
        self._go_on()

    def _hear_worker(self, worker: bytes, job: bytes) -> None:
        self._worker, self._idle = worker, True
        if job:
            self._committer.ask(END, job)
        self._go_on()

    def _go_on(self) -> None:
        if self._worker is not None and self._idle and self._waiting:
            self._idle = False
            self._workers.send_multipart([self._worker, self._waiting.popleft()])

    def _tell(self, what: int, job: bytes) -> None:
        if what == ACCEPT:
            self._apps.send_multipart([self._owners[job], b"accepted"])
        else:
            self._apps.send_multipart([self._owners.pop(job), b"result", RESULT])


def work(endpoint: str) -> None:
    """The worker: gives back what it gets."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(endpoint)
        socket.send(b"")
        while True:
            socket.send(socket.recv())


def main() -> None:
    """The one or the other."""
    directory = Path(sys.argv[1])
    if sys.argv[2:] == ["worker"]:
        work(f"ipc://{directory / 'limit.workers'}")
    else:
        Server(directory).serve()


if __name__ == "__main__":
    main()
