"""The lab's commands: `python -m lab COMMAND`."""

import shutil
import sys
import time
from typing import Annotated

import typer

from lab import packages, removal, toolchain
from lab.lab import Lab
from lab.progress import say
from lab.steps import LabError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command("packages")
def check_packages() -> None:
    """Check that this machine has what the lab needs; say what is missing and how to install it."""
    packages.check()


@app.command("toolchain")
def build_toolchain() -> None:
    """Build etcd, kube-apiserver, kube-controller-manager and kubectl, if they are missing or outdated; print their directory."""
    typer.echo(toolchain.ensure())


@app.command()
def up() -> None:
    """Start a control plane, three hosts, the controller and the agents, and leave them running."""
    started = time.monotonic()
    lab = Lab()
    lab.start()
    typer.echo(f"{lab.name} runs since {time.monotonic() - started:.1f} s; `make clean-lab` removes it. Its parts:")
    typer.echo(f"  controller  pid {lab.controller.target.pid}, log {lab.log('controller')}")
    for name, host in lab.hosts.items():
        typer.echo(f"  {name}    {host.address}, agent pid {lab.agent(name).target.pid}, log {lab.log(f'agent-{name}')}")
        typer.echo(f"              a shell on it: nsenter --target {host.first_process().pid} --all; its /var/lib/kubeferry: {host.root}")
    typer.echo("")
    tools = toolchain.bin_directory()
    if shutil.which("kubectl") is None:
        typer.echo(f"export PATH={tools}:$PATH")
    typer.echo(f"export KUBECONFIG={lab.kubeconfig()}")


@app.command()
def clean(name: Annotated[str | None, typer.Argument(help="A lab, also one that is in use.")] = None) -> None:
    """Remove one lab, or all labs but those whose starter still runs; end only what is on their records."""
    for what in removal.clean(name) or ["no labs"]:
        typer.echo(what)


def main() -> None:
    """Run a command; a failed step of the lab is an exit status and a message, not a trace."""
    try:
        app()
    except* LabError as errors:
        for error in errors.exceptions:
            say(f"lab: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
