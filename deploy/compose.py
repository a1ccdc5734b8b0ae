"""From the configuration to the settings of each process."""

from __future__ import annotations

from pathlib import Path

from deploy.config import Config
from deploy.home import Home, read_env
from deploy.setup import default_model
from gateway.settings import GatewaySettings, WorkerSettings
from trainer.settings import Surroundings

LOCAL = "local"
EXAMPLES = Path(__file__).parent / "examples" / "acme" / "adapters"


def local_worker_port(config: Config) -> int:
    """Return the port that the home remembers for its worker, else the configured one."""
    try:
        return int(Home(config.home).worker_port.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return config.local_worker.port


def workers(config: Config) -> tuple[WorkerSettings, ...]:
    """Return the workers to route to: those configured, else the local one."""
    if config.workers:
        return config.workers
    if config.local_worker.kind == "llamacpp":
        listed = Home(config.home).llamacpp_workers
        return (WorkerSettings(name=LOCAL, url=f"file+{listed}", kind="llamacpp"),)
    url = f"http://127.0.0.1:{local_worker_port(config)}"
    return (WorkerSettings(name=LOCAL, url=url),)


def model_path(config: Config) -> Path | None:
    """Return the folder of the base model, None where only its name is known."""
    if not config.model:
        return default_model(config)
    path = Path(config.model).expanduser().resolve()
    return path if path.is_dir() else None


def database_url(config: Config) -> str:
    """Return the address of the store."""
    if config.database_url:
        return config.database_url.get_secret_value()
    return f"sqlite:///{Home(config.home).database}"


def storage(config: Config) -> str:
    """Return where adapter files lie: a folder or `s3://bucket/prefix`."""
    return config.storage or str(Home(config.home).storage)


def gateway_settings(config: Config) -> GatewaySettings:
    """Return what a gateway and a controller are told."""
    home, path = Home(config.home), model_path(config)
    return GatewaySettings(
        database_url=database_url(config),
        storage=storage(config),
        outbox=home.outbox,
        guard_socket=home.socket("guard"),
        import_roots=(*config.import_roots, EXAMPLES),
        workers=workers(config),
        base_model=path.name if path else config.model,
        base_model_path=path,
        bases=config.bases,
        max_lora_rank=config.max_lora_rank,
        max_cpu_loras=config.max_cpu_loras,
        policy_file=config.policy_file,
        logprobs=config.logprobs,
        host=config.host,
        port=config.port,
        limits=config.limits,
        timeouts=config.timeouts,
        queue=config.queue,
        feedback=config.feedback,
        rollout=config.rollout,
        placement=config.placement,
        refresh=config.refresh,
    )


class NoTrainer(Exception):
    """The trainer cannot run here; the message says what is missing."""


def trainer_surroundings(config: Config) -> Surroundings:
    """Return what a trainer on this machine is told. Raises NoTrainer."""
    home, path = Home(config.home), model_path(config)
    values = read_env(home.keys)
    names = ("OPENAI_BASE_URL", "ADAPTERLOOP_TRAINER_KEY", "ADAPTERLOOP_EVALUATION_KEY")
    if missing := [name for name in names if not values.get(name)]:
        raise NoTrainer(f"{home.keys} holds no {' and no '.join(missing)}; `adapterloop up` does")
    if path is None:
        raise NoTrainer(
            f"the base model {config.model!r} is not a folder on this machine:"
            " set ADAPTERLOOP_MODEL to one that holds its weights"
        )
    url, key, evaluation_key = (values[name] for name in names)
    return Surroundings(
        url=url.removesuffix("/v1"),
        key=key,
        evaluation_key=evaluation_key,
        model=path,
        runs=home.runs,
        settings=config.trainer,
    )
