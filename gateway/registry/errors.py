"""What can go wrong in the registry.

GatewayError
├── InvalidRequest
│   ├── InvalidAdapter        400  the artifact cannot be served
│   │   └── AdapterTooLarge   413
│   └── InvalidName           400
├── ModelNotFound
│   ├── AliasNotFound         404
│   └── VersionNotFound       404
├── NotFound
│   └── KeyNotFound           404
├── Conflict
│   └── VersionNotReady       409
└── Unavailable
    └── StorageUnavailable    503
"""

from __future__ import annotations

from gateway.errors import Conflict, InvalidRequest, ModelNotFound, NotFound, Unavailable


class InvalidAdapter(InvalidRequest):
    """The adapter cannot be served."""

    code = "invalid_adapter"


class AdapterTooLarge(InvalidAdapter):
    """The adapter is larger than this gateway takes."""

    status = 413
    code = "adapter_too_large"


class InvalidName(InvalidRequest):
    """A name has 1 to 63 of a-z, 0-9, '.', '_' and '-', and begins with a letter or digit."""

    code = "invalid_name"


class AliasNotFound(ModelNotFound):
    """No adapter is registered under this name."""


class VersionNotFound(ModelNotFound):
    """This adapter has no such version."""


class KeyNotFound(NotFound):
    """There is no such key."""


class VersionNotReady(Conflict):
    """The version is not in a state that allows this."""

    code = "version_not_ready"


class StorageUnavailable(Unavailable):
    """The storage of adapter files cannot be used right now: try again shortly."""

    code = "storage_unavailable"
