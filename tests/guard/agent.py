"""An agent that a test leads by the hand: what is written to the file `orders` it passes on to the guard, and what the guard
reports it adds to the file `reports`. Told to end, it stops PostgreSQL and leaves when that has ended, unless the file
`careless` is there."""

import os
import signal
import sys
import threading

folder = sys.argv[1]
signal.pthread_sigmask(signal.SIG_SETMASK, [])


def on_end(*_):
    if os.path.exists(folder + "/careless"):
        return
    os.write(1, b"stop fast\n")
    leaving.set()


def hear():
    with open(folder + "/reports", "a", buffering=1) as reports:
        for report in sys.stdin:
            reports.write(f"{os.getpid()} {report}")
            if leaving.is_set() and report.startswith("ended"):
                os._exit(0)


leaving = threading.Event()
signal.signal(signal.SIGTERM, on_end)
threading.Thread(target=hear, daemon=True).start()
# The test holds the pipe open as well, so it has no end.
with open(folder + "/orders") as orders:
    while order := orders.readline():
        os.write(1, order.encode())
