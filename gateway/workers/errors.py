"""What can go wrong between the control side and a worker.

GatewayError
├── Unavailable
│   ├── WorkerUnreachable  no usable answer: down or starting
│   │   └── WorkerSlow      no answer in time
│   ├── WorkerRestarted    another boot answered before the work was done
│   ├── WorkerResting      it went down under the last loads, and gets a pause
│   └── NoRoom             the worker's adapter slots are all taken
├── UpstreamFailed
│   ├── LoadRefused        the worker answered, and said no
│   └── MeasureFailed      the worker cannot be measured
├── Conflict
│   └── NameTaken          the name is there already, with other files
└── InvalidRequest
    ├── FingerprintInvalid the manifest's prompts or references cannot be used
    └── UnsupportedKind    there is no such kind of worker

LookupFailed, which no caller sees: it is not known where workers are.
"""

from __future__ import annotations

from gateway.errors import Conflict, InvalidRequest, Unavailable, UpstreamFailed


class WorkerUnreachable(Unavailable):
    """The worker does not answer."""

    code = "worker_unreachable"


class WorkerSlow(WorkerUnreachable):
    """The worker does not answer in time."""

    code = "worker_slow"


class WorkerRestarted(Unavailable):
    """The worker restarted while an adapter was being loaded or verified."""

    code = "worker_restarted"


class WorkerResting(Unavailable):
    """The worker went down while adapters were being loaded or verified, and gets a pause."""

    code = "worker_resting"


class NoRoom(Unavailable):
    """All adapter slots of the worker are taken."""

    code = "no_room"


class LoadRefused(UpstreamFailed):
    """The worker refused to load the adapter."""

    code = "load_refused"


class MeasureFailed(UpstreamFailed):
    """The worker did not return the log-probabilities that verification needs."""

    code = "measure_failed"


class NameTaken(Conflict):
    """The worker already serves other files under this adapter's name."""

    code = "name_taken"


class FingerprintInvalid(InvalidRequest):
    """The fingerprint in the adapter's manifest cannot be used."""

    code = "invalid_fingerprint"
    param = "fingerprint"


class UnsupportedKind(InvalidRequest):
    """There is no such kind of worker."""

    code = "unsupported_worker_kind"
    param = "kind"


class LookupFailed(Exception):
    """Nothing is known of the workers of an entry for now; the message says why."""
