"""An engine that is none: answers /health, takes its time over requests, and dies as it is told to.

Arguments: port, then words out of
    slow-start  is healthy after half a second only
    dies-at-start  says why on standard error, and exits with status 3
    never-ready  runs, and answers nothing
    deaf  does not stop at SIGTERM
    answered-but-slow  says that all is answered, and takes three seconds to close
    child  starts a process of its own, which outlives it; prints its id
    loud  prints ten thousand lines first
A GET of /wait/SECONDS is answered after that time; /die ends it with SIGKILL, /fail with status 1 and a traceback,
/bow-out with status 0.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, modes = int(sys.argv[1]), set(sys.argv[2:])
open_requests = []


class Handler(BaseHTTPRequestHandler):
    """One request per connection."""

    def do_GET(self):
        open_requests.append(self)
        if self.path.startswith("/wait/"):
            print("accepted", self.path, flush=True)
            time.sleep(float(self.path.removeprefix("/wait/")))
        elif self.path == "/die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.path == "/fail":
            print(
                "Traceback (most recent call last):\n  File x\nRuntimeError: the worker is gone", flush=True
            )
            os._exit(1)
        elif self.path == "/bow-out":
            os._exit(0)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"done")
        open_requests.remove(self)

    def log_message(self, *arguments):
        pass


def stop(*_):
    if "deaf" in modes:
        return
    threading.Thread(target=finish).start()


def finish():
    server.server_close()
    while open_requests:
        time.sleep(0.01)
    if "answered-but-slow" in modes:
        print("Every accepted request is answered", flush=True)
        time.sleep(3)
    print("closed in order", flush=True)
    os._exit(0)


signal.signal(signal.SIGTERM, stop)
if "child" in modes:
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    print(f"child {child.pid}", flush=True)
if "loud" in modes:
    for number in range(10_000):
        print(f"line {number}")
    sys.stdout.flush()
if "dies-at-start" in modes:
    print("ERROR 11-22 15:00:00 [core.py:1] ValueError: no such model", file=sys.stderr)
    sys.exit(3)
if "never-ready" in modes:
    while True:
        time.sleep(1)
if "slow-start" in modes:
    time.sleep(0.5)
server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
server.daemon_threads = True
try:
    server.serve_forever(poll_interval=0.02)
except (OSError, ValueError):
    time.sleep(600)  # closed by `finish`, which ends the process
