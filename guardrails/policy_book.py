"""The policy file: read, checked, and read again when it changes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from guardrails.errors import PolicyError
from guardrails.policy import Policy, default_policy

logger = logging.getLogger(__name__)

_Stamp = tuple[int, int, int]


class PolicyFile(BaseModel):
    """A policy file's content. What it leaves out of `default` is as without a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: Policy | None = None
    aliases: Mapping[str, Policy] = {}
    keys: Mapping[str, Policy] = {}


@dataclass(frozen=True, slots=True)
class Held:
    """A policy that holds now, and for which alias or key it does."""

    scope: Literal["default", "alias", "key"]
    of: str | None
    policy: Policy


class PolicyBook:
    """Knows which policy holds for a call.

    `refresh` looks whether the file has changed; call it off the hot path, about once a second. A
    file with a mistake never takes the place of a good one: the old policies stay, `error` tells
    what is wrong until it is mended.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Raises `PolicyError` if the file is there and cannot be used at start."""
        self._path = path
        self._stamp: _Stamp | None = None
        self._default = default_policy()
        self._aliases: Mapping[str, Policy] = {}
        self._keys: Mapping[str, Policy] = {}
        self.error: PolicyError | None = None
        if path is not None:
            self._stamp = _stamp(path)
            self._load(path)

    def policy_for(self, alias: str | None = None, key_id: str | None = None) -> Policy:
        """Give the key's own policy, else the alias's, else the default."""
        if key_id is not None and (policy := self._keys.get(key_id)) is not None:
            return policy
        if alias is not None and (policy := self._aliases.get(alias)) is not None:
            return policy
        return self._default

    def held(self) -> list[Held]:
        """Give every policy that holds, the default one first."""
        aliases, keys = self._aliases, self._keys
        return [
            Held("default", None, self._default),
            *(Held("alias", name, policy) for name, policy in aliases.items()),
            *(Held("key", name, policy) for name, policy in keys.items()),
        ]

    @property
    def problem(self) -> str | None:
        """What is wrong with the file as it is now, by its name without its folder."""
        if self.error is None or self._path is None:
            return None
        return str(self.error).replace(str(self._path), self._path.name)

    def refresh(self) -> bool:
        """Read the file again if it has changed; tells whether new policies hold now.

        Reads a file, so call it in a thread. Raises `PolicyError`, once for each change, if the
        file cannot be used; the old policies stay.
        """
        if self._path is None:
            return False
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._load(self._path)
        except PolicyError as error:
            self.error = error
            logger.error("the policies stay as they were: %s", error)
            raise
        self.error = None
        logger.info("new policies from %s, default %s", self._path, self._default.version)
        return True

    def _load(self, path: Path) -> None:
        content = parse_policies(_read(path), str(path))
        self._default = content.default or default_policy()
        self._aliases = _named(content.aliases, "alias")
        self._keys = _named(content.keys, "key")
        for policy in (self._default, *self._aliases.values(), *self._keys.values()):
            # Made ready here rather than by the first call that needs it.
            _ = policy.version, policy.input, policy.output


def parse_policies(text: str, source: str = "policy file") -> PolicyFile:
    """Read policies from YAML. Raises `PolicyError` that names the line of the mistake."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PolicyError(f"{source}, line {line}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise PolicyError(f"{source}: {error}") from error
    if content is None:
        return PolicyFile()
    try:
        return PolicyFile.model_validate(content)
    except ValidationError as error:
        raise PolicyError(_explain(error, node, source)) from error


def _explain(error: ValidationError, node: yaml.Node | None, source: str) -> str:
    lines = []
    for each in error.errors():
        place = ".".join(str(part) for part in each["loc"])
        message = each["msg"].removeprefix("Value error, ")
        where = f"{source}, line {_line_of(node, each['loc'])}"
        lines.append(f"{where}: {place}: {message}" if place else f"{where}: {message}")
    return "\n".join(lines)


def _line_of(node: yaml.Node | None, place: tuple[Any, ...]) -> int:
    """Line of the deepest node on the way to `place` that the file has."""
    line = 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pairs = {key.value: (key, value) for key, value in node.value}
            if part not in pairs:
                break
            key, node = pairs[part]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _named(policies: Mapping[str, Policy], kind: str) -> dict[str, Policy]:
    return {
        name: policy
        if "name" in policy.model_fields_set
        else policy.model_copy(update={"name": f"{kind}:{name}"})
        for name, policy in policies.items()
    }


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: {error}") from error


def _stamp(path: Path) -> _Stamp | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
