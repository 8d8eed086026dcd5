"""What the Pulsar driver makes of the brokers' REST API, on a server that answers as it is told."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hexa_worker.config.pulsar import Pulsar
from hexa_worker.drivers.pulsar.admin import Admin
from hexa_worker.drivers.pulsar.names import TopicNames
from hexa_worker.drivers.pulsar.security import Security
from hexa_worker.errors import DriverRejected, DriverUnavailable

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n4.0.4\n"
BROKEN_OFF = b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n4"


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    answers = [WHOLE, BROKEN_OFF]

    class Answering(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(answers.pop(0))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its base calls it so
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Answering) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def admin_of(port: int, *, given: bool) -> Admin:
    url = f"http://127.0.0.1:{port}"
    options = Pulsar(url=f"pulsar://127.0.0.1:{port - 1}", admin_url=url if given else None)
    admin = Admin(options, Security(options, Path()), TopicNames("persistent://public/default/{}"))
    admin.url = url
    return admin


def test_an_api_that_has_answered_and_is_away_now_is_waited_for(server: http.server.HTTPServer) -> None:
    admin = admin_of(server.server_port, given=False)
    assert admin.version() == "4.0.4"
    with pytest.raises(DriverUnavailable, match="cannot be reached"):  # the answer breaks off
        admin.version()
    server.server_close()
    with pytest.raises(DriverUnavailable, match="cannot be reached"):
        admin.version()


def test_an_address_that_nobody_gave_and_that_never_answered_is_refused_with_what_to_do() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as closed:
        port = closed.server_port
    with pytest.raises(DriverRejected, match=r"set broker\.admin_url"):
        admin_of(port, given=False).version()
    with pytest.raises(DriverUnavailable):
        admin_of(port, given=True).version()
