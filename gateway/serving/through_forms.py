"""What may be asked and answered on the routes that pass through: allow-lists, field by field.

The shapes are OpenAI's for embeddings and vLLM's for the others. A request's struct is what goes to
the worker, an answer's what goes to the client: a field that is not named here does neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from gateway.errors import InvalidRequest, UpstreamFailed
from gateway.serving.requests import Message, RequestStruct, decode
from gateway.settings import Limits

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Texts = str | list[str]


class Request(RequestStruct, kw_only=True):
    """What all requests have in common; `user` is the gateway's own."""

    model: str
    user: str | None = None

    def texts(self) -> tuple[str, int]:
        """Give the field with the texts, and how many there are. Raises `InvalidRequest`."""
        raise NotImplementedError


class EmbeddingRequest(Request, kw_only=True):
    """`POST /v1/embeddings`: texts, or the tokens of texts."""

    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    truncate_prompt_tokens: Annotated[int, msgspec.Meta(ge=-1)] | None = None

    def texts(self) -> tuple[str, int]:
        several = isinstance(self.input, list) and not isinstance((self.input or [""])[0], int)
        return "input", len(self.input) if several or not self.input else 1


class ScoreRequest(Request, kw_only=True):
    """`POST /v1/score`: how well texts fit each other, under either pair of names."""

    queries: _Texts | None = None
    documents: _Texts | None = None
    text_1: _Texts | None = None
    text_2: _Texts | None = None
    truncate_prompt_tokens: Annotated[int, msgspec.Meta(ge=-1)] | None = None

    def texts(self) -> tuple[str, int]:
        match (self.queries, self.documents, self.text_1, self.text_2):
            case (queries, documents, None, None) if queries is not None and documents is not None:
                return "documents", _pairs(queries, documents)
            case (None, None, first, second) if first is not None and second is not None:
                return "text_2", _pairs(first, second)
        raise InvalidRequest(
            "Send 'queries' and 'documents', or 'text_1' and 'text_2'.", param="queries"
        )


class RerankRequest(Request, kw_only=True):
    """`POST /v1/rerank`: which documents fit a query best."""

    query: str
    documents: list[str]
    top_n: _Count | None = None
    truncate_prompt_tokens: Annotated[int, msgspec.Meta(ge=-1)] | None = None

    def texts(self) -> tuple[str, int]:
        return "documents", len(self.documents)


class TokenizeRequest(Request, kw_only=True):
    """`POST /v1/tokenize`: the tokens of a prompt, or of a conversation under its template."""

    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None

    def texts(self) -> tuple[str, int]:
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequest("Send either 'prompt' or 'messages'.", param="prompt")
        return "messages", 1 if self.messages is None else len(self.messages)


class DetokenizeRequest(Request, kw_only=True):
    """`POST /v1/detokenize`: the text of tokens."""

    tokens: list[_Count]

    def texts(self) -> tuple[str, int]:
        return "tokens", 1


class Usage(msgspec.Struct):
    """Tokens as the worker bills them."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class Answer(msgspec.Struct, kw_only=True):
    """What all answers have in common: `model` names the version that answered."""

    model: str = ""

    @property
    def billed(self) -> int:
        """The tokens that it cost."""
        return 0


class _Billed(Answer, kw_only=True):
    usage: Usage

    @property
    def billed(self) -> int:
        return max(self.usage.prompt_tokens, self.usage.total_tokens)


class Embedding(msgspec.Struct):
    """One vector, as the worker wrote it: a list of numbers, or base64 of float32."""

    index: int
    embedding: msgspec.Raw
    object: Literal["embedding"] = "embedding"

    def __post_init__(self) -> None:
        if bytes(memoryview(self.embedding)[:1]) not in (b"[", b'"'):
            raise ValueError("an embedding is a list or base64")


class EmbeddingAnswer(_Billed, kw_only=True):
    """OpenAI's list of embeddings."""

    object: Literal["list"] = "list"
    data: list[Embedding]


class Score(msgspec.Struct):
    """How well one pair fits."""

    index: int
    score: float
    object: Literal["score"] = "score"


class ScoreAnswer(_Billed, kw_only=True):
    """vLLM's list of scores."""

    object: Literal["list"] = "list"
    data: list[Score]


class _Document(msgspec.Struct):
    text: str | None = None


class Ranked(msgspec.Struct):
    """One document and how well it fits."""

    index: int
    relevance_score: float
    document: _Document | None = None


class RerankAnswer(_Billed, kw_only=True):
    """Documents, the best first."""

    results: list[Ranked]


class TokenizeAnswer(Answer, kw_only=True):
    """vLLM's tokens."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeAnswer(Answer, kw_only=True):
    """vLLM's text of tokens."""

    prompt: str


@dataclass(frozen=True, slots=True)
class PassForm:
    """One route that passes through: its shapes, and where a worker has it.

    `uses_tokens`: whether the model itself runs, so that tokens are reserved and billed.
    """

    route: str
    paths: Sequence[str]
    worker_path: str
    request: msgspec.json.Decoder[Any]
    answer: msgspec.json.Decoder[Any]
    uses_tokens: bool = True

    def read(self, body: bytes, limits: Limits) -> Request:
        """Read a body. Raises `InvalidRequest` with the field at fault."""
        request: Request = decode(self.request, body)
        name, number = request.texts()
        if not number:
            raise InvalidRequest(f"'{name}' must not be empty.", param=name)
        if number > limits.max_inputs:
            raise InvalidRequest(
                f"'{name}' may hold at most {limits.max_inputs} texts here.", param=name
            )
        return request

    def likely_tokens(self, body: bytes) -> int:
        """About how many tokens a body will use: four bytes each."""
        return len(body) // 4 + 1 if self.uses_tokens else 0

    def parse(self, data: bytes) -> Answer:
        """Read a worker's answer. Raises `UpstreamFailed` for what is none of this route."""
        try:
            answer: Answer = self.answer.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise UpstreamFailed(
                "The worker's answer could not be understood, so it was withheld."
            ) from None
        return answer


def _pairs(first: _Texts, second: _Texts) -> int:
    """Give how many pairs are scored; none where either side is empty."""
    sizes = [len(texts) if isinstance(texts, list) else 1 for texts in (first, second)]
    return 0 if 0 in sizes else max(sizes)


def _form(
    name: str, request: type[Request], answer: type[Answer], *, bare: bool = True, **more: Any
) -> PassForm:
    """Make a form: at /v1, and where vLLM has it so at the root too."""
    paths = [f"/v1/{name}", f"/{name}"] if bare else [f"/v1/{name}"]
    given = {"worker_path": f"/v1/{name}"} | more
    decoders = msgspec.json.Decoder(request), msgspec.json.Decoder(answer)
    return PassForm(name, paths, given.pop("worker_path"), *decoders, **given)


PASS_FORMS = (
    _form("embeddings", EmbeddingRequest, EmbeddingAnswer, bare=False),
    _form("score", ScoreRequest, ScoreAnswer),
    _form("rerank", RerankRequest, RerankAnswer),
    _form("tokenize", TokenizeRequest, TokenizeAnswer, worker_path="/tokenize", uses_tokens=False),
    _form(
        "detokenize",
        DetokenizeRequest,
        DetokenizeAnswer,
        worker_path="/detokenize",
        uses_tokens=False,
    ),
)
