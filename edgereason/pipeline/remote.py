"""An answer model behind a server that speaks OpenAI's chat completions, such as llama.cpp's, Ollama's or vLLM's.

This is the only module that opens a socket, and only for an address that the user has given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, build_opener

from edgereason.bundle import Sampling
from edgereason.errors import EngineError, UsageError

_TIMEOUT_S = 120.0
"""For each read: the first token of a long prompt may take a while."""

_LONGEST_LINE = 1 << 20


class RemoteModel:
    """A server's model.

    Args:
        url: The server's address, with or without `/v1`; `#name` at its end chooses a model, otherwise the server's
            first one is taken.

    Raises:
        UsageError: it is no http address.
        EngineError: the server cannot be reached, or has no model.
    """

    name = "server"

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url} is no http address.", "Write it like http://localhost:8080.")
        path = parts.path.rstrip("/")
        self.url = f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else f'{path}/v1'}"
        self._opener = build_opener()
        self.model = parts.fragment or self._first_model()

    def write(
        self, messages: Sequence[dict[str, str]], limit: int, sampling: Sampling, stop_strings: Sequence[str] = ()
    ) -> Iterator[str]:
        """Yield what the model writes, piece by piece as the server sends it.

        Args:
            messages: Chat turns.
            limit: Maximum new tokens.
            sampling: Temperature, top-p and seed; servers know the rest by different names.
            stop_strings: End the text and are not part of it.

        Raises:
            EngineError: the server cannot be reached, refuses, or sends something else than a completion.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": limit,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stream": True,
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if stop_strings:
            body["stop"] = list(stop_strings)
        with self._open("chat/completions", body) as response:
            yield from self._pieces(response)

    def _pieces(self, response: Any) -> Iterator[str]:
        """The texts of server-sent events, up to `[DONE]`."""
        try:
            while line := response.readline(_LONGEST_LINE):
                data = line.strip()
                if not data.startswith(b"data:"):
                    continue
                data = data[5:].strip()
                if data == b"[DONE]":
                    return
                choices = json.loads(data).get("choices") or [{}]
                piece = (choices[0].get("delta") or {}).get("content")
                if piece:
                    yield str(piece)
        except (OSError, HTTPException) as error:
            raise EngineError(f"{self.url} broke off: {error}.", "Look at the server's log.") from error
        except (ValueError, AttributeError, TypeError, KeyError, IndexError) as error:
            raise self._strange() from error

    def _first_model(self) -> str:
        with self._open("models") as response:
            try:
                return str(json.loads(response.read(_LONGEST_LINE))["data"][0]["id"])
            except (ValueError, TypeError, KeyError, IndexError) as error:
                raise self._strange() from error

    def _open(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/{path}", data, {"Content-Type": "application/json"})
        try:
            return self._opener.open(request, timeout=_TIMEOUT_S)
        except HTTPError as error:
            reason = error.read(300).decode(errors="replace").strip()
            raise EngineError(f"{self.url}/{path} answers {error.code}: {reason or error.reason}") from error
        except (URLError, OSError, HTTPException) as error:
            reason = str(error.reason if isinstance(error, URLError) else error)
            raise EngineError(
                f"{self.url} cannot be reached: {reason}.", "Is the server running? Check address and port."
            ) from error

    def _strange(self) -> EngineError:
        return EngineError(
            f"{self.url} sends something else than chat completions.",
            "Give the address of an OpenAI-compatible server.",
        )
