"""A server that shows whatever page it is given at /metrics."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class MetricsServer:
    """`page` is what it shows; `status` with what; both may change while it runs."""

    def __init__(self, page=b"", status=200):
        self.page, self.status = page, status
        self.asked = []

    @contextmanager
    def running(self, port=0):
        """The address of its root."""
        server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def _handler(self):
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                told.asked.append(self.path)
                is_page = self.path == "/metrics"
                body = told.page if is_page else b"not here"
                self.send_response(told.status if is_page else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        return Handler
