"""Claims jobs and runs them: the trainer as a process, and the refresh in the foreground."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import threading
from collections.abc import Callable
from typing import Any

from trainer.client import AdminClient
from trainer.errors import GatewayAway, LeaseLost, TrainerError
from trainer.lease import Lease
from trainer.refresh import Refresh
from trainer.settings import Surroundings

logger = logging.getLogger(__name__)

POLL_S = 2.0
Say = Callable[[str], None]


class Stopping(BaseException):
    """This process was asked to end; the job is given back."""


def new_holder() -> str:
    """Name this process, as the holder of leases."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def claim(client: AdminClient, holder: str, job_id: str | None = None) -> dict[str, Any] | None:
    """Claim the oldest job that waits, or this one; None where there is none to claim."""
    body = {"holder": holder, "kinds": ["refresh"], "job_id": job_id}
    job = client.post("/jobs/claim", body)
    return dict(job) if job is not None else None


def run_job(
    client: AdminClient, here: Surroundings, job: dict[str, Any], holder: str, say: Say
) -> dict[str, Any]:
    """Run a claimed job to its end, and record how it ended; gives the job as it is then.

    A refresh that cannot be done fails, with its reason. Where the gateway is away or the lease is
    lost the job is left as it is, for the next claim. Raises those two.
    """
    with Lease(client, str(job["id"]), holder) as lease:
        refresh = Refresh(job, here, client, lease, say)
        try:
            result = refresh.to_end()
        except (GatewayAway, LeaseLost):
            raise
        except Stopping:
            lease.release()
            raise
        except TrainerError as error:
            say(f"failed: {error}")
            lease.finish("failed", None, str(error))
        except Exception as error:
            # Whatever it was, the next night must not wait for this job.
            logger.exception("job %s failed", job["id"])
            lease.finish("failed", None, f"{type(error).__name__}: {error}")
        else:
            lease.finish("done", result, None)
            shutil.rmtree(refresh.run.checkpoints, ignore_errors=True)
    ended: dict[str, Any] = client.get(f"/jobs/{job['id']}")
    return ended


def work(client: AdminClient, here: Surroundings, say: Say, stop: threading.Event) -> None:
    """Claim and run jobs, one at a time, until `stop` is set."""
    holder, trouble = new_holder(), ""
    while not stop.is_set():
        try:
            job = claim(client, holder)
            if job is not None:
                say(f"job {job['id']}: refresh of {job['alias']}")
                ended = run_job(client, here, job, holder, say)
                say(f"job {job['id']}: {ended['state']}")
                continue
            trouble = ""
        except TrainerError as error:
            # One line a change: a gateway that is away for an hour is one line.
            if str(error) != trouble:
                trouble = str(error)
                say(f"{type(error).__name__}: {error}")
        stop.wait(POLL_S)


def refresh_now(
    client: AdminClient, here: Surroundings, alias: str, parameters: dict[str, Any], say: Say
) -> dict[str, Any]:
    """Ask for a refresh and see it to its end, here or by the trainer that claims it first.

    Gives the ended job. Raises `TrainerError`.
    """
    job = client.post("/refreshes", {"alias": alias, "parameters": parameters})
    return follow(client, here, str(job["id"]), say)


def follow(client: AdminClient, here: Surroundings, job_id: str, say: Say) -> dict[str, Any]:
    """See a job to its end: run it where nobody does, and tell its stages where somebody does."""
    holder, shown, pause = new_holder(), "", threading.Event()
    while True:
        claimed = claim(client, holder, job_id)
        if claimed is not None:
            return run_job(client, here, claimed, holder, say)
        job: dict[str, Any] = client.get(f"/jobs/{job_id}")
        if job["state"] not in ("queued", "running"):
            return job
        line = f"{job['lease_holder']} works on it: {job['stage'] or 'starting'}"
        if line != shown:
            shown = line
            say(line)
        pause.wait(POLL_S)
