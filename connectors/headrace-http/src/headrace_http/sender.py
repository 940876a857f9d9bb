"""Requests to one endpoint.

Owns the connections of one egress and the sending of a batch.

- Rows of a lane go one request after the other, and after a failure no further one; lanes go side by side.
- A request that fails in a way that passes is sent again in place a few times: else one bad answer among thousands
  would begin them all again. Then the runner takes over.
- No message and no log line holds the address beyond its host, a header, a secret or a row.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp

from headrace.egress.references import filled
from headrace.egress.sdk import Refused, TargetInvalid, TargetUnavailable
from headrace_http.answers import EXCERPT_BYTES, Answer, Verdict, excerpt, retry_after_s
from headrace_http.bodies import Bodies, Lane, Request
from headrace_http.options import Format, HttpOptions
from headrace_http.reach import reach
from headrace_http.signing import Signer

ATTEMPTS = 3
"""Of one request, before the runner waits and begins again."""
ATTEMPT_PAUSE_S = 0.2
"""Before the second attempt; then twice as long."""
PATIENCE_S = 2.0
"""The longest `Retry-After` that is waited out in place; a longer one is the runner's, which serves its group."""
WRITE_S_MAX = 240.0
"""Of a batch: a member of a group that is not heard of for five minutes is put out."""


@dataclass(slots=True)
class _Batch:
    """A batch on its way."""

    bodies: Bodies
    lanes: Iterator[Lane]
    """Those that nobody has begun."""
    deadline_s: float
    refused: list[Refused] = field(default_factory=list)
    failed: bool = False


class Sender:
    """One egress's way to its endpoint, on an event loop of its own."""

    def __init__(self, options: HttpOptions, *, clock: Callable[[], float] = time.time) -> None:
        self._options, self._clock = options, clock
        self._url = filled(options.url, "url")
        self._signer = Signer([filled(secret, "secret") for secret in options.secrets])
        given = {name: filled(text, f"headers.{name}") for name, text in options.headers.items()}
        self._headers = {**given, **own_headers(options)}
        self._tls = _tls(options)
        self._session: aiohttp.ClientSession | None = None
        self._loop = asyncio.Runner()
        self._place = shown_address(self._url)

    def send(self, bodies: Bodies) -> list[Refused]:
        """Send all rows and return those that the endpoint refused. Raises `TargetUnavailable`, `TargetInvalid`."""
        return self._loop.run(self._send(bodies))

    def problems(self) -> list[str]:
        """What a connection tells; nothing is sent. Raises `TargetInvalid` for what is no address."""
        tls = ssl.create_default_context() if isinstance(self._tls, bool) else self._tls
        told = self._loop.run(reach(self._url, tls, self._options.timeout_ms / 1_000))
        return [f"{self._place}: {told}"] if told else []

    def close(self) -> None:
        """Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            self._loop.run(session.close())
        self._loop.close()

    async def _send(self, bodies: Bodies) -> list[Refused]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # The senders are so many: a request that waits for a connection would spend its time on that.
                connector=aiohttp.TCPConnector(limit=0, ssl=self._tls),
                timeout=aiohttp.ClientTimeout(total=self._options.timeout_ms / 1_000),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        lanes = bodies.lanes()
        batch = _Batch(bodies, iter(lanes), time.monotonic() + WRITE_S_MAX)
        senders = [self._send_lanes(batch) for _ in range(min(len(lanes), self._options.requests_max))]
        # Not a task group: what is under way when one lane fails is waited for, so that it cannot come in later.
        for result in await asyncio.gather(*senders, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        return sorted(batch.refused)

    async def _send_lanes(self, batch: _Batch) -> None:
        """One lane after the other, while there are some and nothing has failed."""
        try:
            for lane in batch.lanes:
                for request in batch.bodies.requests(lane):
                    if batch.failed:
                        return
                    await self._send_request(batch, request)
        except BaseException:
            batch.failed = True
            raise

    async def _send_request(self, batch: _Batch, request: Request) -> None:
        """Send it, in halves where it is refused as a whole."""
        answer = await self._answer(batch, request)
        if answer.verdict is Verdict.TAKEN:
            return
        if answer.verdict is Verdict.STOP:
            raise self._wrong_endpoint(answer)
        if answer.verdict is Verdict.RETRY:
            raise TargetUnavailable(
                f"{self._place}: {answer.told if not answer.status else f'answers {answer.status}'}",
                cure="see to the endpoint; headrace tries again",
                retry_after_s=answer.retry_after_s,
            )
        if request.can_be_halved:
            for half in batch.bodies.halves(request):
                await self._send_request(batch, half)
            return
        code = "http.too_large" if answer.verdict is Verdict.TOO_LARGE else "http.refused"
        batch.refused.append(Refused(request.rows[0], code, f"{answer.status}: {answer.told}"))

    async def _answer(self, batch: _Batch, request: Request) -> Answer:
        """The answer of the last attempt."""
        pause_s = ATTEMPT_PAUSE_S
        for attempt in range(1, ATTEMPTS + 1):
            if time.monotonic() > batch.deadline_s:
                message = f"{self._place}: a batch takes longer than {WRITE_S_MAX:.0f} s"
                raise TargetUnavailable(message, cure="lower `batch.rows_max`, or send more rows with a request")
            answer = await self._post(request)
            wait_s = max(pause_s, answer.retry_after_s)
            if answer.verdict is not Verdict.RETRY or attempt == ATTEMPTS or wait_s > PATIENCE_S:
                break
            await asyncio.sleep(wait_s)
            pause_s *= 2
        return answer

    async def _post(self, request: Request) -> Answer:
        assert self._session is not None
        signed = self._signer.headers(request.id, int(self._clock()), request.body)
        headers = {"Idempotency-Key": request.id, **signed}
        try:
            async with self._session.post(
                self._url, data=request.body, headers=headers, allow_redirects=False
            ) as response:
                body = await response.content.read(EXCERPT_BYTES)
                after_s = retry_after_s(response.headers.get("Retry-After"))
                return Answer(response.status, excerpt(body), after_s)
        except aiohttp.InvalidURL as error:
            raise TargetInvalid("option 'url' is no address", cure="write https://host/path") from error
        except TimeoutError:
            return Answer(0, f"no answer within {self._options.timeout_ms:,} ms")
        except aiohttp.ClientConnectorCertificateError as error:
            return Answer(0, f"its certificate is not trusted: {error.certificate_error}")
        except (aiohttp.ClientError, OSError) as error:
            # Their texts may hold the whole address.
            return Answer(0, f"cannot be asked: {type(error).__name__}{_reason(error)}")

    def _wrong_endpoint(self, answer: Answer) -> TargetInvalid:
        cures = {
            401: "check `headers` and `secret`",
            403: "check `headers` and `secret`",
            404: "check `url`",
            410: "the receiver wants no more: remove the egress, or change `url`",
            415: "choose another `format`",
        }
        cure = "name the address that it leads to" if 300 <= answer.status < 400 else "check `url` and `headers`"
        return TargetInvalid(f"{self._place}: answers {answer.status}", cure=cures.get(answer.status, cure))


def own_headers(options: HttpOptions) -> dict[str, str]:
    """That headrace sets, the same in every request."""
    is_lines = options.format is Format.NDJSON
    found = {"Content-Type": "application/x-ndjson" if is_lines else "application/json"}
    return found if "user-agent" in {name.lower() for name in options.headers} else {**found, "User-Agent": "headrace"}


def _tls(options: HttpOptions) -> ssl.SSLContext | bool:
    if options.ca_certificate is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(options.ca_certificate))
    except (OSError, ssl.SSLError) as error:
        message = f"option 'ca_certificate': {options.ca_certificate} cannot be read: {error}"
        raise TargetInvalid(message, cure="name a PEM file") from error


def shown_address(url: str) -> str:
    """Scheme and host: what follows may be a secret. Raises `TargetInvalid`, also for what a variable brought in."""
    try:
        parts = urlsplit(url)
    except ValueError:
        # Its text repeats a part of the address.
        raise TargetInvalid("option 'url' is no address", cure="write https://host/path") from None
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _reason(error: Exception) -> str:
    """The operating system's word for it."""
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return f" ({inner.strerror})" if isinstance(inner, OSError) and inner.strerror else ""
