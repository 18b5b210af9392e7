"""A server of files on the loopback address, in place of the one of Keras."""
import contextlib
import http.server
import os
import threading


@contextlib.contextmanager
def serving(folder):
    """Serves the files of a folder, whatever the directory in their address; yields (address, requests, cuts).

    Every request is appended to `requests`; as long as `cuts` is not empty, each takes one item out of it and is
    interrupted in the middle of the file.
    """
    requests, cuts = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            path = os.path.join(folder, os.path.basename(self.path))
            if not os.path.isfile(path):
                self.send_error(404)
                return
            with open(path, "rb") as file:
                content = file.read()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:len(content) // 2] if cuts else content)
            if cuts:
                cuts.pop()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests, cuts
        finally:
            server.shutdown()
