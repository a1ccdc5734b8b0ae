"""Logprobs travel with the text they belong to, or not at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from gateway.serving.answers import BareToken, Token
from guardrails.types import Piece

_RESYNC = 8


def _bytes_of(token: Token | BareToken) -> bytes:
    if isinstance(token, Token) and token.bytes is not None:
        return bytes(token.bytes)
    return token.token.encode("utf-8", "surrogatepass")


class TokenGate:
    """Holds the logprobs of one choice's content until that very text has been released.

    A token goes out only if its bytes stand in released, unredacted text at the place where the
    answer has come to. Tokens that are no text of the answer (end of turn, a stop sequence that the
    worker cut off, reasoning) are dropped.
    """

    def __init__(self) -> None:
        self._waiting: deque[Token | BareToken] = deque()
        self._raw = ""
        self._data = b""
        self._position = 0
        self._released = 0
        self._redacted: list[tuple[int, int]] = []

    def arrived(self, text: str, tokens: Iterable[Token | BareToken]) -> None:
        """Note what the worker sent: content and the tokens that came with it."""
        self._raw += text
        self._data += text.encode("utf-8", "surrogatepass")
        self._waiting.extend(tokens)

    def release(self, pieces: Sequence[Piece], finished: bool = False) -> list[Token | BareToken]:
        """Give the tokens of the released pieces; `finished` when no more text will come."""
        for piece in pieces:
            self._released = self._offset(piece.end)
            if piece.redacted:
                self._redacted.append((self._offset(piece.start), self._released))
        out: list[Token | BareToken] = []
        while self._waiting:
            data = _bytes_of(self._waiting[0])
            start = self._place(data)
            if start is None and not finished and self._released < self._position + len(data):
                break
            if start is not None and start + len(data) > self._released:
                if not finished:
                    break
                start = None
            token = self._waiting.popleft()
            if start is None:
                continue
            self._position = start + len(data)
            if not self._is_redacted(start, self._position):
                out.append(token)
        return out

    def _offset(self, characters: int) -> int:
        return len(self._raw[:characters].encode("utf-8", "surrogatepass"))

    def _place(self, data: bytes) -> int | None:
        """Where the token stands at or shortly after the position, or None."""
        if self._data.startswith(data, self._position):
            return self._position
        found = self._data.find(data, self._position, self._position + len(data) + _RESYNC)
        return None if found < 0 or not data else found

    def _is_redacted(self, start: int, end: int) -> bool:
        return any(start < stop and end > begin for begin, stop in self._redacted)
