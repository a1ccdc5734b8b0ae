"""The admin API: adapters, workers and keys, for operators and the trainer."""

from gateway.admin.router import create_admin_router

__all__ = ["create_admin_router"]
