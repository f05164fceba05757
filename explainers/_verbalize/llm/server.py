"""A server that speaks OpenAI's chat protocol, asked through the `openai` client."""

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from probe.errors import InputError, ProbeError

if TYPE_CHECKING:
    import openai

KEY = "OPENAI_API_KEY"
NO_KEY = "none"  # local servers ask for none, the client for some


class ServerError(ProbeError):
    """The server of a language model refused, failed, or sent what is no answer."""


@dataclass(frozen=True)
class Answer:
    """One answer and what it cost."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    cached: bool = False


@dataclass(frozen=True)
class Server:
    """Where the language model is, and how it is asked. The key stays in the environment: no field holds it.

    Attributes:
        base_url: such as http://localhost:8000/v1.
        model: its name there; empty takes the first that the server lists.
        temperature: of sampling; 0 is greedy.
        max_tokens: of an answer.
        timeout: seconds for one request.
        retries: further tries after 408, 409, 429, 5xx, a lost connection or a time-out, with growing pauses.
        key_variable: environment variable that holds the key, if the server wants one.
        prices: US dollars per million tokens, prompt and completion; (0, 0) where they cost nothing.
    """

    base_url: str
    model: str = ""
    temperature: float = 0.0
    max_tokens: int = 300
    timeout: float = 60.0
    retries: int = 2
    key_variable: str = KEY
    prices: tuple[float, float] = (0.0, 0.0)
    _made: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(
                f"base_url = {self.place!r}, expected an address such as http://localhost:8000/v1"
            )
        if self.timeout <= 0 or self.retries < 0 or self.max_tokens < 1:
            raise InputError("timeout and max_tokens must be positive, retries at least 0")

    @property
    def place(self) -> str:
        """The address without user name, password and query: what may be shown and kept."""
        parts = urlsplit(self.base_url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
        return urlunsplit((parts.scheme, host + port, parts.path, "", ""))

    def cost(self, answer: Answer) -> float:
        """US dollars of an answer."""
        asked, said = self.prices
        return (asked * answer.prompt_tokens + said * answer.completion_tokens) / 1e6

    def name(self) -> str:
        """The model's name; asks the server once where none was given.

        Raises:
            ServerError: as `ask`.
        """
        if self.model:
            return self.model
        if "name" not in self._made:
            listed = self._guarded(lambda client: list(client.models.list().data))
            if not listed:
                raise ServerError(f"{self.place} lists no model: name one")
            self._made["name"] = str(listed[0].id)
        return str(self._made["name"])

    def ask(self, messages: list[dict[str, str]], schema: dict[str, Any] | None = None) -> Answer:
        """Send one chat request.

        Args:
            messages: role and content each.
            schema: JSON schema of the answer; a server that does not know structured output (400, 422) is asked
                again without it.

        Raises:
            ServerError: refused (401, 403, 404), too many requests, a fault of the server, a time-out, a lost
                connection, or an answer that is not of the protocol; the message holds no key.
        """
        settings: dict[str, Any] = {
            "model": self.name(),
            "messages": messages,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        if schema is not None and not self._made.get("plain"):
            form = {"name": "explanation", "strict": True, "schema": schema}
            settings["response_format"] = {"type": "json_schema", "json_schema": form}
        start = time.perf_counter()
        reply = self._guarded(lambda client: self._send(client, settings))
        try:
            text = reply.choices[0].message.content or ""
        except (AttributeError, IndexError, TypeError) as error:
            raise ServerError(
                f"{self.place} answered with something else than a chat completion: is the address right (…/v1)?"
            ) from error
        usage = getattr(reply, "usage", None)
        asked, said = (int(getattr(usage, name, 0) or 0) for name in ("prompt_tokens", "completion_tokens"))
        return Answer(text, asked, said, time.perf_counter() - start)

    def _send(self, client: "openai.OpenAI", settings: dict[str, Any]) -> Any:
        import openai

        try:
            return client.chat.completions.create(**settings)
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            if "response_format" not in settings:
                raise
            self._made["plain"] = True
            return client.chat.completions.create(
                **{name: value for name, value in settings.items() if name != "response_format"}
            )

    def _client(self) -> "openai.OpenAI":
        import openai

        if "client" not in self._made:
            key = os.environ.get(self.key_variable) or NO_KEY
            self._made["client"] = openai.OpenAI(
                base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=self.retries
            )
        return self._made["client"]  # type: ignore[no-any-return]

    def _guarded(self, request: Any) -> Any:
        import openai

        tries = f"after {self.retries + 1} tries" if self.retries else "at the first try"
        try:
            return request(self._client())
        except openai.AuthenticationError as error:
            said = "no key was given" if not os.environ.get(self.key_variable) else "the key was refused"
            raise ServerError(
                f"{self.place} wants a valid key (401): {said}; put it into {self.key_variable}"
            ) from _bare(error)
        except openai.RateLimitError as error:
            raise ServerError(
                f"{self.place} takes no more requests (429) {tries}: wait, or raise retries"
            ) from _bare(error)
        except openai.APITimeoutError as error:
            raise ServerError(
                f"{self.place} did not answer within {self.timeout:g} s {tries}: raise the time-out"
            ) from _bare(error)
        except openai.APIStatusError as error:
            raise ServerError(
                f"{self.place} answered {error.status_code} {tries}: {self._clean(error)}"
            ) from _bare(error)
        except openai.APIConnectionError as error:
            raise ServerError(
                f"{self.place} cannot be reached, or the connection broke, {tries}: {self._clean(error.__cause__)}"
            ) from _bare(error)
        except (openai.OpenAIError, ValueError) as error:
            raise ServerError(
                f"{self.place} sent what is not JSON of the protocol: is the address right (…/v1)?"
            ) from _bare(error)

    def _clean(self, error: object) -> str:
        text = " ".join(str(error or "no reason given").split())[:200]
        for secret in (os.environ.get(self.key_variable), urlsplit(self.base_url).password):
            text = text.replace(secret, "…") if secret else text
        return text


def _bare(error: Exception) -> Exception:
    """A cause to show that carries no request and so no header with the key."""
    return RuntimeError(type(error).__name__)
