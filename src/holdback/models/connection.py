"""Requests to an HTTP endpoint: many at once, tried again where that helps, counted, capped.

The endpoint's key comes from the environment and goes into one header; no error, record or log has
it, whatever the endpoint says back.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from holdback.errors import EndpointError, HoldbackError, LimitReachedError
from holdback.models.token_cap import TokenLedger

if TYPE_CHECKING:
    import ssl

    import httpx

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

# Timeouts and conflicts besides «too many requests» and the server's own failures.
_PASSING = frozenset({408, 409, 425, 429})
_LONGEST_WAIT_SECONDS = 60.0
_TRIES_OF_NOBODY = 3
_FIRST_ANSWER_SECONDS = 180.0
_SILENCE_SECONDS = 15.0
# What a server may ask for by `Retry-After` before it counts as an answer: come back another day.
_LONGEST_REQUESTED_SECONDS = 600.0


@dataclass(slots=True, kw_only=True)
class Usage:
    """What an endpoint was asked so far and what that took; it only grows."""

    requests: int = 0
    """Answered ones."""
    prompt_tokens: int = 0
    generated_tokens: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    """Requests sent again, by the reason: a status such as `429`, `timeout`, `malformed`, …"""
    seconds_waited: float = 0.0
    """Between tries, summed over requests that waited at the same time."""
    adapted: dict[str, str] = field(default_factory=dict)
    """Fields that the server does not take, and what was done about it."""
    capped: str = ""
    """The cap that kept requests from being sent; empty while none has."""

    @property
    def tokens(self) -> int:
        """Of prompts and answers together."""
        return self.prompt_tokens + self.generated_tokens

    def copy(self) -> Usage:
        """Keep what it is now."""
        return replace(self, retries=Counter(self.retries), adapted=dict(self.adapted))

    def since(self, earlier: Usage) -> Usage:
        """Take off what it was, to see what one run took."""
        return Usage(
            requests=self.requests - earlier.requests,
            prompt_tokens=self.prompt_tokens - earlier.prompt_tokens,
            generated_tokens=self.generated_tokens - earlier.generated_tokens,
            retries=self.retries - earlier.retries,
            seconds_waited=self.seconds_waited - earlier.seconds_waited,
            adapted=dict(self.adapted),
            capped=self.capped,
        )

    def describe(self) -> dict[str, Any]:
        """Write it as JSON for a run's provenance."""
        return {
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "generated_tokens": self.generated_tokens,
            "retries": dict(sorted(self.retries.items())),
            "seconds_waited": round(self.seconds_waited, 3),
            "adapted": dict(self.adapted),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """A request's JSON, and what it is expected to cost before the server says."""

    fields: Mapping[str, Any]
    expected_tokens: int


_TOO_MANY = 429
_GIVEN_UP: set[str] = set()
"""Addresses that were given up on in this process since they last answered. Every later run asks
once, and does not learn anew what is known. Not for want of pace (429): that passes."""


class RejectedError(EndpointError):
    """A request that the endpoint rejects, today and tomorrow: status 4xx."""

    def __init__(self, message: str, status: int = 0, reply: str = "") -> None:
        super().__init__(message, status, reply)
        self.status = status
        self.reply = reply
        """What the server said, without the key."""

    def __str__(self) -> str:
        return str(self.args[0])


class Connection:
    """An endpoint's address, its key, and how it is asked.

    Attributes:
        usage: What was asked so far.
        ledger: Keeps the command's cap on tokens. Requests that would pass it by their expected
            tokens are not sent.
        continues_messages: Whether the server was seen to go on from an answer begun for it.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: str | None = None,
        key_variable: str = "OPENAI_API_KEY",
        url_variable: str = "OPENAI_BASE_URL",
        max_connections: int = 16,
        ledger: TokenLedger | None = None,
        tries: int = 7,
        timeout_seconds: float = 600.0,
        backoff_seconds: float = 0.5,
    ) -> None:
        """Send nothing yet.

        Args:
            base_url: Up to and with `/v1`.
            key: Sent as a bearer token; None for servers that want none.
            key_variable: Environment variable of the key, for messages.
            url_variable: That of the address, likewise.
            max_connections: Requests under way at once.
            ledger: Of all tokens, of prompts and answers; without one there is no cap.
            tries: Of one request, the first included.
            timeout_seconds: For one answer.
            backoff_seconds: Before the second try; it doubles with every further one, to a minute,
                and each wait is cut by a random half, so that requests do not come back in step.
        """
        self.usage = Usage()
        self.ledger = ledger or TokenLedger(None)
        self.continues_messages = False
        self._base_url = base_url.rstrip("/")
        self._key = key
        self._key_variable = key_variable
        self._url_variable = url_variable
        self._max_connections = max_connections
        self._tries = tries
        self._timeout_seconds = timeout_seconds
        self._backoff_seconds = backoff_seconds
        self._jitter = random.Random()
        self._trust: ssl.SSLContext | bool = True
        self._gave_up = False
        """Whether the last request was given up on."""

    def __repr__(self) -> str:
        return f"Connection({self.address!r})"

    @property
    def _is_silent(self) -> bool:
        """Whether this address was given up on, here or in an earlier run."""
        return self._gave_up or self._base_url in _GIVEN_UP

    @property
    def address(self) -> str:
        """The base URL as messages show it: without user, password or query."""
        parts = urlsplit(self._base_url)
        host = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{host}{parts.path}"

    def post_all(
        self,
        path: str,
        bodies: Sequence[Body],
        read: Callable[[Mapping[str, Any]], T],
        *,
        rescue: Callable[[RejectedError], T | None] = lambda error: None,
        lose: Callable[[HoldbackError], T] | None = None,
    ) -> list[T]:
        """Post all bodies and read the answers, in their order.

        The first request whose tries are spent ends the batch: nobody else waits through tries of
        their own to learn the same.

        Args:
            path: Behind the base URL, such as `/chat/completions`.
            bodies: One a request.
            read: Makes an answer of a reply; whatever it raises for an unexpected form is taken
                for a reply that was cut short, and the request is tried again.
            rescue: Makes an answer of a rejection, or returns None to let it stand.
            lose: Makes a stand-in for each request that got no answer when the batch ended, so that
                the answers that came before are kept; without it they are lost too.

        Raises:
            RejectedError: for a request that is rejected.
            EndpointError: for one that failed at its last try, likewise.
            LimitReachedError: where the next request would pass the cap on tokens, and nothing of
                the batch was answered or there is no `lose`.
        """
        if not bodies:
            return []
        answers: dict[int, T] = {}
        try:
            _run(self._post_all(path, bodies, read, rescue, answers))
        except RejectedError:
            raise
        except LimitReachedError as error:
            self.usage.capped = str(error)
            if lose is None or not answers:
                raise
            stopped: HoldbackError = error
        except EndpointError as error:
            self._gave_up = True
            if lose is None or not answers:
                raise
            stopped = error
        else:
            return [answers[index] for index in range(len(bodies))]
        return [
            answers[index] if index in answers else lose(stopped) for index in range(len(bodies))
        ]

    async def _post_all(
        self,
        path: str,
        bodies: Sequence[Body],
        read: Callable[[Mapping[str, Any]], T],
        rescue: Callable[[RejectedError], T | None],
        answers: dict[int, T],
    ) -> None:
        waiting = iter(range(len(bodies)))
        capped: list[LimitReachedError] = []

        async def work(client: httpx.AsyncClient) -> None:
            # Shared by all: whoever is free takes the next.
            for index in waiting:
                if capped:
                    return
                try:
                    answers[index] = await self._post(client, path, bodies[index], read)
                except LimitReachedError as error:
                    # What the others have sent is paid for: they wait for its answers.
                    capped.append(error)
                except RejectedError as error:
                    answer = rescue(error)
                    if answer is None:
                        raise
                    answers[index] = answer

        crew = min(self._max_connections, len(bodies))
        async with self._open_client() as client:
            tasks = [asyncio.create_task(work(client)) for _ in range(crew)]
            watch = asyncio.create_task(self._tell_of_silence(answers))
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in (*tasks, watch):
                    task.cancel()
                await asyncio.gather(*tasks, watch, return_exceptions=True)
        if capped:
            raise capped[0]

    async def _tell_of_silence(self, answers: Mapping[int, object]) -> None:
        """Say when nothing was answered for a while: nobody should wait without knowing."""
        waited = 0.0
        while True:
            before = len(answers)
            await asyncio.sleep(_SILENCE_SECONDS)
            waited = 0.0 if len(answers) > before else waited + _SILENCE_SECONDS
            if waited:
                _LOG.warning("%s: no answer for %.0f s; still waiting", self.address, waited)

    def _open_client(self) -> httpx.AsyncClient:
        import httpx

        if self._trust is True and self._base_url.startswith("https:"):
            # Reading the certificates takes longer than a small model's answer.
            self._trust = httpx.create_ssl_context()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(self._find_timeout(), connect=min(10.0, self._timeout_seconds)),
            limits=httpx.Limits(max_connections=self._max_connections),
            verify=self._trust,
        )

    async def _post(
        self,
        client: httpx.AsyncClient,
        path: str,
        body: Body,
        read: Callable[[Mapping[str, Any]], T],
    ) -> T:
        self.ledger.reserve(body.expected_tokens, where=self.address)
        try:
            for tried in range(1, self._tries + 1):
                failure = await self._try_once(client, path, body, read)
                if not isinstance(failure, _Failure):
                    return failure
                if tried == self._find_last_try(failure) or not failure.passing:
                    if failure.passing and failure.status != _TOO_MANY:
                        _GIVEN_UP.add(self._base_url)
                    raise self._give_up(failure, tried)
                self.usage.retries[failure.reason] += 1
                seconds = self._choose_wait(failure, tried)
                self.usage.seconds_waited += seconds
                await asyncio.sleep(seconds)
        finally:
            self.ledger.settle(body.expected_tokens, 0)
        raise AssertionError("tries is at least 1")

    def _find_timeout(self) -> float:
        # A server that takes connections and has never answered, or does no more, may never answer.
        never = not self.usage.requests or self._is_silent
        return min(self._timeout_seconds, _FIRST_ANSWER_SECONDS if never else math.inf)

    def _find_last_try(self, failure: _Failure) -> int:
        # Who has just been given up on is asked once, until an answer comes.
        if self._is_silent:
            return 1
        # Where nothing ever answered there is no server, and each run would wait to learn it anew.
        never = failure.reason in ("connection", "timeout") and not self.usage.requests
        return min(self._tries, _TRIES_OF_NOBODY) if never else self._tries

    async def _try_once(
        self,
        client: httpx.AsyncClient,
        path: str,
        body: Body,
        read: Callable[[Mapping[str, Any]], T],
    ) -> T | _Failure:
        import httpx

        try:
            response = await client.post(f"{self._base_url}{path}", json=dict(body.fields))
        except httpx.TimeoutException as error:
            return _Failure(reason="timeout", said=type(error).__name__)
        except httpx.TransportError as error:
            return _Failure(reason="connection", said=self._clean(str(error)))
        except (httpx.InvalidURL, httpx.HTTPError) as error:
            return _Failure(reason="address", said=self._clean(str(error)), passing=False)
        if response.status_code != 200:
            return self._read_failure(response, path)
        try:
            reply = response.json()
            if not isinstance(reply, dict):
                raise TypeError(f"expected an object, got {type(reply).__name__}")
            self._count(reply, body)
            return read(reply)
        except EndpointError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            said = f"{type(error).__name__} in {self._clean(response.text)!r}"
            return _Failure(reason="malformed", said=said)

    def _read_failure(self, response: httpx.Response, path: str) -> _Failure:
        status, said = response.status_code, self._clean(_find_message(response.text))
        # Not a matter of time: the account has nothing left to spend.
        spent = status == 429 and "insufficient_quota" in response.text
        return _Failure(
            reason=str(status),
            status=status,
            said=f"{path}: {said}" if said else path,
            passing=not spent and (status in _PASSING or status >= 500),
            requested_seconds=_read_retry_after(response.headers.get("retry-after")),
        )

    def _give_up(self, failure: _Failure, tried: int) -> EndpointError:
        asked = failure.requested_seconds
        if failure.status and not failure.passing:
            fixes = {
                401: f"set {self._key_variable} to a key that this endpoint knows"
                + ("" if self._key else " (none is set)"),
                403: f"the key in {self._key_variable} may not use this model; ask for access, or"
                " name another model",
                404: f"check {self._url_variable} (or `base_url`: it ends in /v1 on most servers)"
                " and the model's name, and whether the server has this path at all",
                429: "the account has no credit left; top it up, then run the same command again",
            }
            fix = fixes.get(failure.status, "the request is not one that this server takes")
            return RejectedError(
                f"{self.address}: expected an answer, got status {failure.status} from"
                f" {failure.said}; {fix}",
                failure.status,
                failure.said,
            )
        fix = {
            "timeout": "the server may be overloaded: lower HOLDBACK_MAX_CONNECTIONS",
            "connection": f"is the server running, and is {self._url_variable} (or `base_url`)"
            " right?",
            "address": f"correct {self._url_variable} (or `base_url`)",
        }.get(failure.reason, "run the same command again later: what was answered is kept")
        if asked is not None and asked > _LONGEST_REQUESTED_SECONDS:
            fix = f"it asks to wait {asked:.0f} s; run the same command again after that"
        times = f"{tried} tries" if tried > 1 else "1 try"
        return EndpointError(
            f"{self.address}: expected an answer, got none that could be used in {times}: the last"
            f" was {failure.reason} ({failure.said}); {fix}"
        )

    def _choose_wait(self, failure: _Failure, tried: int) -> float:
        """Seconds to the next try: what the server asks for, or twice as long as before."""
        asked = failure.requested_seconds
        if asked is not None:
            if asked > _LONGEST_REQUESTED_SECONDS:
                raise self._give_up(failure, tried)
            # A little later than asked, each at its own moment.
            return asked + self._jitter.uniform(0, min(1.0, self._backoff_seconds))
        longest = min(_LONGEST_WAIT_SECONDS, self._backoff_seconds * 2 ** (tried - 1))
        return self._jitter.uniform(longest / 2, longest)

    def _count(self, reply: Mapping[str, Any], body: Body) -> None:
        self.usage.requests += 1
        self._gave_up = False
        _GIVEN_UP.discard(self._base_url)
        counted = reply.get("usage") or {}
        prompt, generated = counted.get("prompt_tokens"), counted.get("completion_tokens")
        if prompt is None and generated is None:
            # A server that does not count: the expectation stands, so that a cap still holds.
            prompt = body.expected_tokens
        self.usage.prompt_tokens += int(prompt or 0)
        self.usage.generated_tokens += int(generated or 0)
        self.ledger.settle(0, int(prompt or 0) + int(generated or 0))

    def _clean(self, text: str) -> str:
        """Make what a server says fit for a line: no key, no control characters, not much of it."""
        if self._key:
            text = text.replace(self._key, "***")
        words = " ".join(text.split())
        return "".join(letter for letter in words if letter.isprintable())[:200]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failure:
    """One try that brought no answer."""

    reason: str
    said: str
    status: int | None = None
    passing: bool = True
    """Whether another try may help."""
    requested_seconds: float | None = None


def _run(work: Any) -> Any:
    """Run a coroutine to its end, whether or not this thread has a loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _find_message(text: str) -> str:
    """Take the message out of an error's JSON, in the forms that servers give it."""
    with suppress(ValueError, AttributeError):
        reply = json.loads(text)
        found = reply.get("error") or reply.get("detail") or reply.get("message") or text
        if isinstance(found, dict):
            code = found.get("code")
            message = str(found.get("message") or found)
            return message if not code or str(code) in message else f"{message} ({code})"
        return str(found)
    return text


def _read_retry_after(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for: a number, or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError):
        until = parsedate_to_datetime(value)
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    return None
