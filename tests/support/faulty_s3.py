"""A service of S3 that fails as real ones do: a proxy in front of a real server.

It passes requests on as they are, signatures included, unless a fault is due for their operation.
"""

import threading
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable

from tests.support.buckets import S3Server
from tests.support.s3_proxy import ProxiedRequest, S3Proxy

_XMLNS = "{http://s3.amazonaws.com/doc/2006-03-01/}"

Fault = Callable[[ProxiedRequest], None]


class FaultyS3(S3Proxy):
    def __init__(self, server: S3Server) -> None:
        super().__init__(server)
        # What is due, by operation; each fault once.
        self.due: dict[str, list[Fault]] = defaultdict(list)
        # Every request, until it is taken away again.
        self.always: Fault | None = None
        # Names of objects that refuse to be deleted.
        self.stuck: set[str] = set()
        self.asked: list[str] = []
        self._lock = threading.Lock()

    def serve(self, request: ProxiedRequest) -> None:
        operation = request.operation
        fault = self._next_fault(operation)
        if fault is not None:
            fault(request)
        elif operation == "DeleteObjects" and self.stuck:
            self._delete_others(request)
        elif operation == "DeleteObject" and self._named(request) in self.stuck:
            request.refuse(403, "AccessDenied")
        else:
            request.answer(*request.ask_upstream())

    def _next_fault(self, operation: str) -> Fault | None:
        with self._lock:
            self.asked.append(operation)
            if self.always is not None:
                return self.always
            return self.due[operation].pop(0) if self.due[operation] else None

    def _named(self, request: ProxiedRequest) -> str:
        return request.path.partition("?")[0].split("/", 2)[2]

    def _delete_others(self, request: ProxiedRequest) -> None:
        """As a service does where some objects are locked: the others go."""
        bucket = request.path.split("/")[1].partition("?")[0]
        keys = [found.text or "" for found in ET.fromstring(request.body).iter(f"{_XMLNS}Key")]
        errors = ""
        for key in keys:
            if key in self.stuck:
                errors += f"<Error><Key>{key}</Key><Code>AccessDenied</Code></Error>"
            else:
                self.client().delete_object(Bucket=bucket, Key=key)
        request.answer(200, [], f"<DeleteResult>{errors}</DeleteResult>".encode())


# --- faults -----------------------------------------------------------------------------------


def slow_down(request: ProxiedRequest) -> None:
    """Refused before anything is done: too many requests."""
    request.refuse(503, "SlowDown")


def expired(request: ProxiedRequest) -> None:
    """The credentials have ended."""
    request.refuse(400, "ExpiredToken")


def full(request: ProxiedRequest) -> None:
    """The bucket's quota is used up."""
    request.refuse(403, "QuotaExceeded")


def denied(request: ProxiedRequest) -> None:
    """A right is missing."""
    request.refuse(403, "AccessDenied")


def reset(request: ProxiedRequest) -> None:
    """The connection breaks before anything is done."""
    request.close_connection = True


def answer_lost(request: ProxiedRequest) -> None:
    """Done, and the connection breaks before the answer."""
    request.ask_upstream()
    request.close_connection = True


def error_in_200(request: ProxiedRequest) -> None:
    """Refused by the body of an answer that began well, as a long completion's."""
    request.refuse(200, "InternalError")


def done_and_error_in_200(request: ProxiedRequest) -> None:
    """Done all the same."""
    request.ask_upstream()
    request.refuse(200, "InternalError")


class SlowCompletion:
    """Its answer is lost while it is at work, and a second one is told 200 at once.

    It is done when the object has been looked for `looks` times. So does versitygw where copying
    the parts takes longer than a client waits.
    """

    def __init__(self, faulty: FaultyS3, looks: int) -> None:
        self._at_work: ProxiedRequest | None = None
        faulty.due["CompleteMultipartUpload"] = [self._begin, self._say_done]
        faulty.due["HeadObject"] = [*[_pass_on] * (looks - 1), self._end]

    def _begin(self, request: ProxiedRequest) -> None:
        self._at_work = request
        request.close_connection = True

    def _say_done(self, request: ProxiedRequest) -> None:
        said = "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
        request.answer(200, [("Content-Type", "application/xml")], said.encode())

    def _end(self, request: ProxiedRequest) -> None:
        assert self._at_work is not None, "nobody asked to complete"
        self._at_work.ask_upstream()
        _pass_on(request)


def _pass_on(request: ProxiedRequest) -> None:
    request.answer(*request.ask_upstream())


def half_a_body(request: ProxiedRequest) -> None:
    """The connection breaks in the middle of the answer's body."""
    status, headers, body = request.ask_upstream()
    request.answer(status, headers, body[: len(body) // 2])
    request.close_connection = True
