"""`keys.env`: the keys of the first owner, made once, kept on later starts."""

from __future__ import annotations

from deploy.home import Home, read_env, write_env
from gateway.registry.service import Registry

TENANT = "default"
OWNER = "adapterloop up"

# Variable -> role and purpose. The review page signs in with the reviewer's.
KEYS = {
    "OPENAI_API_KEY": ("app", "serve"),
    "ADAPTERLOOP_ADMIN_KEY": ("admin", "serve"),
    "ADAPTERLOOP_REVIEWER_KEY": ("reviewer", "serve"),
    "ADAPTERLOOP_TRAINER_KEY": ("trainer", "serve"),
    "ADAPTERLOOP_EVALUATION_KEY": ("app", "evaluation"),
}


def ensure_keys(home: Home, registry: Registry, base_url: str) -> dict[str, str]:
    """Return the lines of keys.env, making the file and those keys that the store does not know.

    A key that was revoked stays revoked: the file is the owner's to change then.
    """
    before = read_env(home.keys)
    known = [info.prefix for info in registry.list_keys(TENANT)]
    values = {**before, "OPENAI_BASE_URL": f"{base_url}/v1"}
    for variable, (role, purpose) in KEYS.items():
        secret = before.get(variable, "")
        if not any(secret.startswith(prefix) for prefix in known):
            secret, _ = registry.create_key(tenant=TENANT, owner=OWNER, role=role, purpose=purpose)
        values[variable] = secret
    if values != before or home.keys.stat().st_mode & 0o077:
        order = ["OPENAI_BASE_URL", *KEYS]
        write_env(home.keys, {name: values[name] for name in (*order, *(values.keys() - {*order}))})
    return values
