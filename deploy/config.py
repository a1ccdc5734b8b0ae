"""The configuration: one YAML file plus `ADAPTERLOOP_*` variables, variables first.

Every package owns the model of its own settings; here they become sections of one document.
Nested values are reached by two underscores: `ADAPTERLOOP_LIMITS__MAX_TOKENS=512`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from feedback.settings import FeedbackSettings
from gateway.registry.snapshot import BASE_ALIAS
from gateway.settings import (
    BaseModelSettings,
    Limits,
    LogprobsShare,
    PlacementSettings,
    QueueSettings,
    RefreshSettings,
    RolloutSettings,
    StorageLocation,
    Timeouts,
    WorkerSettings,
)
from guardrails.settings import GuardSettings
from trainer.settings import TrainerSettings

PREFIX = "ADAPTERLOOP_"
CONFIG_VARIABLE = "ADAPTERLOOP_CONFIG"

Location = tuple[str | int, ...]


class ConfigError(Exception):
    """The configuration holds a mistake; the message has one line for each, with its place."""


class LocalWorker(BaseModel):
    """The worker that `adapterloop up` starts where none is named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["vllm", "llamacpp"] = "vllm"

    port: int = Field(8001, ge=1, le=65535, description="a free one is taken where this is in use")
    python: Path | None = Field(
        None, description="interpreter that has vLLM; default: the set-up's"
    )
    dtype: str = "float32"
    max_model_len: int = Field(2048, gt=0)
    max_loras: int = Field(4, gt=0, description="adapters in one batch")
    threads: int | None = Field(None, gt=0, description="default: one for each core")
    kv_cache_gib: int = Field(2, gt=0)
    tool_parser: str | None = Field(
        None, description="vLLM's parser of tool calls; default: by the model's chat template"
    )
    reasoning_parser: str | None = Field(None, description="vLLM's parser of thoughts; likewise")
    llama_server: Path | None = Field(
        None, description="llama.cpp's program; default: the set-up's, which is built here"
    )
    gguf: Path | None = Field(None, description="the base model for it, where `model` is given")
    slots: int = Field(
        1,
        gt=0,
        description="calls that llama-server runs at a time; with more, one adapter's can shut"
        " out another's",
    )
    extra_arguments: tuple[str, ...] = ()


class Config(BaseSettings):
    """Everything a person can set, with defaults that run on a laptop."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    home: Path = Field(Path(".adapterloop"), description="database, adapters, keys, logs, models")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    model: str = Field("", description="folder of the base model; default: the bundled one")
    bases: tuple[BaseModelSettings, ...] = Field((), description="base models beside `model`")
    workers: Annotated[tuple[WorkerSettings, ...], NoDecode] = Field(
        (), description="workers that already run; then `up` starts none"
    )
    database_url: SecretStr | None = Field(None, description="default: SQLite in the home")
    storage: StorageLocation | None = Field(
        None, description="folder or s3://bucket/prefix; default: `storage` in the home"
    )
    policy_file: Path | None = None
    import_roots: tuple[Path, ...] = Field((), description="folders adapters may be added from")
    logprobs: LogprobsShare = Field(
        1.0, description="share of the calls whose confidence is measured; `all`, `off`"
    )
    max_lora_rank: int = Field(16, gt=0)
    max_cpu_loras: int = Field(8, gt=0)
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    queue: QueueSettings = Field(QueueSettings(), description="when every worker is full")
    feedback: FeedbackSettings = FeedbackSettings()
    guard: GuardSettings = Field(GuardSettings(), description="the guard process")
    rollout: RolloutSettings = RolloutSettings()
    placement: PlacementSettings = PlacementSettings()
    refresh: RefreshSettings = RefreshSettings()
    trainer: TrainerSettings = TrainerSettings()
    local_worker: LocalWorker = LocalWorker()
    torch_index: str | None = Field(None, description="package index that has torch's CPU build")

    @field_validator("workers", mode="before")
    @classmethod
    def _urls(cls, value: Any) -> Any:
        """Take URLs, comma-separated or as a list, as well as full entries."""
        entries = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if not isinstance(entries, list | tuple):
            return entries
        entries = [entry for entry in entries if entry != ""]
        return [_worker(number, entry) for number, entry in enumerate(entries, 1)]

    @field_validator("home", "policy_file", "import_roots")
    @classmethod
    def _absolute(cls, value: Path | tuple[Path, ...] | None) -> Path | tuple[Path, ...] | None:
        if value is None:
            return None
        if isinstance(value, tuple):
            return tuple(path.expanduser().resolve() for path in value)
        return value.expanduser().resolve()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables before the file, whose values arrive as keyword arguments."""
        return env_settings, init_settings


def _worker(number: int, entry: Any) -> Any:
    if not isinstance(entry, str):
        return entry
    return {"name": f"worker-{number}", "url": entry}


def config_file() -> Path | None:
    """Return the file that `ADAPTERLOOP_CONFIG` names, if it names one."""
    name = os.environ.get(CONFIG_VARIABLE)
    return Path(name).expanduser() if name else None


def load(path: Path | None = None) -> Config:
    """Read the YAML at `path` (else what ADAPTERLOOP_CONFIG names, else nothing) and the variables.

    Raises ConfigError, whose message names file and line, or the variable, of each mistake.
    """
    path = path or config_file()
    values, lines = read_yaml(path) if path else ({}, {})
    try:
        config = Config(**values)
    except ValidationError as error:
        mistakes = [_mistake(item["loc"], item["msg"], path, lines) for item in error.errors()]
        raise ConfigError("\n".join(mistakes)) from None
    except SettingsError as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise ConfigError(f"environment: {error}{cause}") from None
    found = (*_clashes(config), *_strays(config))
    if mistakes := [_mistake(*one, path, lines) for one in found]:
        raise ConfigError("\n".join(mistakes))
    return config


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    """Return the document and the line of each of its entries.

    Raises ConfigError where the file is missing, is no YAML, repeats a key or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: {error.problem}") from None
    if root is None:
        return {}, {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}:1: expected names and values (`port: 8000`)")
    lines: dict[Location, int] = {}
    for location, line in _walk(root, ()):
        if location in lines:
            name = ".".join(map(str, location))
            raise ConfigError(f"{path}:{line}: {name}: given before, on line {lines[location]}")
        lines[location] = line
    return values, lines


def unknown_variables() -> list[str]:
    """Return variables that begin with ADAPTERLOOP_ and mean nothing: most likely typing errors."""
    known = {f"{PREFIX}{name}".upper() for name in Config.model_fields} | {CONFIG_VARIABLE}
    return sorted(
        name
        for name in os.environ
        if name.startswith(PREFIX)
        and name.split("__")[0] not in known
        # Those of keys.env, which people source into their shell.
        and not name.endswith("_KEY")
    )


def _walk(node: yaml.Node, above: Location) -> Iterator[tuple[Location, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*above, key.value), key.start_mark.line + 1
            yield from _walk(value, (*above, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*above, index), value.start_mark.line + 1
            yield from _walk(value, (*above, index))


def _clashes(config: Config) -> Iterator[tuple[Location, str]]:
    """Find bases whose name is not theirs alone, each with its place and what is wrong."""
    declared = (name for worker in config.workers for name in worker.models)
    versions = (name.partition("@") for name in declared)
    aliases = {alias for alias, _, number in versions if number.strip("0")}
    aliases.update(config.refresh.aliases)
    names: set[str] = set()
    for at, base in enumerate(config.bases):
        if base.name in names:
            yield ("bases", at, "name"), f"{base.name!r} is the name of another base: choose one"
        elif base.name in aliases:
            yield (
                ("bases", at, "name"),
                f"{base.name!r} is an alias with versions of its own: choose another name",
            )
        names.add(base.name)


def _strays(config: Config) -> Iterator[tuple[Location, str]]:
    """Find workers of a base model that there is not, each with its place and what is wrong."""
    names = (BASE_ALIAS, *(base.name for base in config.bases))
    known = {*names, config.model, *(base.model for base in config.bases)}
    for at, worker in enumerate(config.workers):
        if worker.base is not None and worker.base not in known:
            yield (
                ("workers", at, "base"),
                f"{worker.base!r} is no base model here: say {' or '.join(names)},"
                " or add it under `bases`",
            )


def _mistake(
    location: Location, message: str, path: Path | None, lines: Mapping[Location, int]
) -> str:
    message = message.removeprefix("Value error, ").replace(
        "Extra inputs are not permitted", "no such setting"
    )
    name = ".".join(map(str, location))
    variable = PREFIX + "__".join(map(str, location)).upper()
    for length in range(len(location), 0, -1):
        # A variable overrides the file, so where both give the value the variable is at fault.
        if (shorter := PREFIX + "__".join(map(str, location[:length])).upper()) in os.environ:
            return f"{shorter}: {message}"
    for length in range(len(location), 0, -1):
        if line := lines.get(location[:length]):
            return f"{path}:{line}: {name}: {message}"
    return f"{variable}: {message}"
