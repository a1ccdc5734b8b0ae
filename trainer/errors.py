"""Every error the trainer raises.

TrainerError
├── RowInvalid        a line of a data set is not an instruction row
├── NoRows            a data set holds nothing to train on
├── PromptsTooFew     not enough distinct rows for a fingerprint
├── RunBusy           another process trains in this run's folder
├── TrainingFailed    the training process ended without an adapter
├── NoGoldenSet       an alias has no golden set to be measured on
├── EvaluationFailed  the gateway does not answer the golden queries
├── VersionRefused    no worker could prove that the new version has effect
├── MergeRefused      these adapters cannot be merged
├── Refused           the gateway refuses a call of the trainer
├── GatewayAway       the gateway cannot be reached
└── LeaseLost         the job is another trainer's now, or it was cancelled

The docstring is the message where none is given.
"""

from __future__ import annotations


class TrainerError(Exception):
    """The trainer cannot go on."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class RowInvalid(TrainerError):
    """A line of the data set is not an instruction row."""


class NoRows(TrainerError):
    """The data set holds no rows."""


class PromptsTooFew(TrainerError):
    """A fingerprint needs at least four distinct rows."""


class RunBusy(TrainerError):
    """Another process trains in this run's folder."""


class TrainingFailed(TrainerError):
    """The training process ended without an adapter."""


class NoGoldenSet(TrainerError):
    """The alias has no golden set."""


class EvaluationFailed(TrainerError):
    """The gateway does not answer the golden queries."""


class VersionRefused(TrainerError):
    """No worker could prove that the new version has effect."""


class MergeRefused(TrainerError):
    """These adapters cannot be merged."""


class Refused(TrainerError):
    """The gateway refuses this call."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class GatewayAway(TrainerError):
    """The gateway cannot be reached."""


class LeaseLost(TrainerError):
    """The job is another trainer's now, or it was cancelled."""


class EvaluationInvalid(TrainerError):
    """This is not an evaluation."""


class GateError(TrainerError):
    """The two evaluations cannot be compared."""


class GatePolicyInvalid(TrainerError):
    """The gate's policy cannot be used."""
