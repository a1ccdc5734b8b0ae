"""The command `adapterloop`. Commands load when they are called, so that each starts at once."""

from __future__ import annotations

import importlib

import click

_COMMANDS = {
    "up": ("deploy.commands.up", "Run everything on this machine until Ctrl-C."),
    "setup": ("deploy.commands.setup", "Make the environments and unpack the base model."),
    "doctor": ("deploy.commands.doctor", "Look for what would keep this machine from serving."),
    "config": ("deploy.commands.config", "Check or show the configuration."),
    "keys": ("deploy.commands.keys", "Create, limit, list, rotate and revoke API keys."),
    "usage": ("deploy.commands.usage", "Show what was used, per day, alias and key."),
    "adapters": ("deploy.commands.adapters", "Add adapter versions and decide which one serves."),
    "feedback": (
        "deploy.commands.feedback",
        "Import, export and erase rows; golden sets; confidence.",
    ),
    "trainer": ("deploy.commands.trainer", "Refresh an adapter from what was reviewed."),
    "demo": ("deploy.commands.demo", "Two nights of the whole loop, on made-up tickets."),
    "gateway": ("deploy.commands.gateway", "Run one gateway in the foreground."),
    "controller": ("deploy.commands.controller", "Run one controller in the foreground."),
    "guard": ("deploy.commands.guard", "Run one guard process in the foreground."),
    "worker": ("deploy.commands.worker", "Run the local worker in the foreground."),
    "migrate": ("deploy.commands.migrate", "Bring the database to this version's tables."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used, not to list them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="adapterloop")
def cli() -> None:
    """An OpenAI-compatible gateway whose LoRA adapters improve from reviewed feedback.

    Settings come from the YAML file named by ADAPTERLOOP_CONFIG and from ADAPTERLOOP_* variables.
    """


def main() -> None:
    """Run the command line."""
    cli(prog_name="adapterloop")


if __name__ == "__main__":
    main()
