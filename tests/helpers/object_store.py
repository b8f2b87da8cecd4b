"""An S3 server of this machine, of whose requests one in so many fails."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

FAULT = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>injected</Message></Error>'


class Faults:
    """A WSGI application of which every n-th request is answered by an error.

    Of those, every other one is done all the same before it is answered so: a client that sends it
    again must not take what it finds then for somebody else's.
    """

    def __init__(self, application: Any, every: int) -> None:
        self.application, self.every = application, every
        self.num_requests = self.num_faults = 0
        self.is_on = every > 0
        self._lock = threading.Lock()

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        # One at a time: moto looks whether an object is there, and writes it then.
        with self._lock:
            self.num_requests += 1
            fails = self.is_on and self.num_requests % self.every == 0
            self.num_faults += fails
            if not fails:
                return [b"".join(self.application(environ, start_response))]
            if self.num_faults % 2 == 0:
                b"".join(self.application(environ, lambda *_: lambda _: None))
            else:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("503 Slow Down", [("Content-Type", "application/xml")])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [FAULT]


@contextmanager
def served(*, every: int = 0) -> Iterator[tuple[str, Faults]]:
    """The address of a server with a bucket `bucket`, and its faults."""
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None: ...

    faults = Faults(DomainDispatcherApplication(create_backend_app), every)
    faults.is_on = False
    server = make_server("127.0.0.1", 0, faults, threaded=True, request_handler=Silent)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    boto3.client(
        "s3", endpoint_url=address, aws_access_key_id="a", aws_secret_access_key="b",
        region_name="us-east-1",
    ).create_bucket(Bucket="bucket")  # fmt: skip
    faults.is_on = every > 0
    try:
        yield address, faults
    finally:
        server.shutdown()
        thread.join()
