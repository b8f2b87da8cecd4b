"""`tabom view DIR`: look through a collection or a run in a browser."""

import argparse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from tabom.cli.flags import add_common

if TYPE_CHECKING:
    from tabom.report.browse import Library

# The pages run their own script alone and fetch nothing.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "form-action 'self'; base-uri 'none'"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom view`."""
    parser.add_argument("folder", help="of `tabom collect`, `tabom evaluate` or `tabom run`")
    parser.add_argument("--verdicts", help="what `tabom verify` wrote of a collection")
    parser.add_argument("--model_name_or_path", help="whose tokenizer turns ids into texts")
    add_common(parser, "--storage_options")
    parser.add_argument("--port", type=int, default=8321, help="0: any free one (default: 8321)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="where it listens (default: here alone)"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from tabom.core.place import place
    from tabom.stages.browse import open_library

    library = open_library(
        place(args.folder, args.storage_options),
        verdicts=place(args.verdicts, args.storage_options) if args.verdicts else None,
        model_name_or_path=args.model_name_or_path,
    )
    server = make_server(library, host=args.host, port=args.port)
    print(f"http://{args.host}:{server.server_address[1]}/  (Ctrl-C ends)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    return 0


def make_server(library: "Library", *, host: str, port: int) -> ThreadingHTTPServer:
    """A server of a library's pages: `/` lists, `/item/N` shows one."""
    from tabom.report.browse import Query

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            where = urlsplit(self.path)
            query = Query.of(dict(parse_qsl(where.query)))
            kind, _, number = where.path.strip("/").partition("/")
            page = None
            if not kind:
                page = library.list_page(query)
            elif kind == "item" and number.isdecimal() and int(number) < len(library.items):
                page = library.item_page(int(number), query)
            body = (page or "<h1>There is no such page</h1>").encode()
            self.send_response(404 if page is None else 200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", POLICY)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """No line for each page."""

    return ThreadingHTTPServer((host, port), Handler)
