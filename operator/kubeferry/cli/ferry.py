"""The plugin `kubectl ferry`: what kubectl does with Migrations, in fewer words, and a look at how far they are."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from kubeferry.api.migration import DecisionValue, Migration, MigrationPhase
from kubeferry.api.model import load
from kubeferry.api.names import API_VERSION
from kubeferry.cli import migration_page
from kubeferry.cli.kubectl import FIELD_MANAGER, Kubectl, KubectlError

LOOK_EVERY = 1.0
"""Seconds between two looks at a Migration that is followed."""
INTERRUPTED = 130
"""The exit status that a shell gives for Ctrl-C."""
_REDRAW = "\r\x1b[K"

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


class DryRun(StrEnum):
    """Where it is tried out (kubectl's `--dry-run`)."""

    NONE = "none"
    CLIENT = "client"
    SERVER = "server"


Name = Annotated[str, typer.Argument(help="The Migration.")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="The namespace; by default the context's.")]
Context = Annotated[str | None, typer.Option(help="The context of the kubeconfig to use.")]
Kubeconfig = Annotated[str | None, typer.Option(help="The kubeconfig to use.")]
DryRunOption = Annotated[DryRun, typer.Option("--dry-run", help="Try it out only; with `-o yaml` it shows what would be written.")]
Output = Annotated[str | None, typer.Option("--output", "-o", help="Print the object as kubectl does: yaml, json or name.")]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Follow it until a decision is awaited, or it has ended.")]


@app.command()
def migrate(
    vm: Annotated[str, typer.Argument(help="The VirtualMachine.")],
    to: Annotated[str | None, typer.Option(help="The node to go to; by default the scheduling pass chooses.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the Migration; by default the VM's with a few letters.")] = None,
    start_deadline: Annotated[int | None, typer.Option(help="Seconds until which it may begin, and waits for a node.")] = None,
    decide_after: Annotated[int | None, typer.Option(help="Seconds after which --then is done if nobody decides.")] = None,
    then: Annotated[DecisionValue | None, typer.Option(help="What is done then.")] = None,
    wait: Wait = False,
    dry_run: DryRunOption = DryRun.NONE,
    output: Output = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Move a VM to another node, where it waits to be confirmed or reverted: `kubectl create` of a Migration."""
    spec: dict[str, Any] = {
        "virtualMachine": {"name": vm},
        "targetNode": to,
        "startDeadlineSeconds": start_deadline,
        "decisionTimeoutSeconds": decide_after,
        "onDecisionTimeout": then,
    }
    manifest = {
        "apiVersion": API_VERSION,
        "kind": "Migration",
        "metadata": {"name": name} if name else {"generateName": f"{vm}-"},
        "spec": {key: value for key, value in spec.items() if value is not None},
    }
    kubectl = _kubectl(namespace, context, kubeconfig)
    words = ("create", "-f", "-", f"--field-manager={FIELD_MANAGER}")
    with _told():
        if not wait or dry_run != DryRun.NONE:
            kubectl.show(*words, *_how(dry_run, output), stdin=json.dumps(manifest))
            return
        made = load(Migration, kubectl.object(*words, stdin=json.dumps(manifest)))
        typer.echo(f"migration.kubeferry.io/{made.metadata.name} created")
        seen = _follow(kubectl, made.metadata.name, lambda m: migration_page.awaits(m) or migration_page.ended(m))
    _end(migration_page.awaits(seen) or _phase(seen) == MigrationPhase.CONFIRMED, seen)


def _deciding(value: DecisionValue) -> Callable[..., None]:
    """The command that decides so."""

    def decide(
        name: Name,
        wait: Annotated[bool, typer.Option("--wait", "-w", help="Follow it until it has ended.")] = False,
        dry_run: DryRunOption = DryRun.NONE,
        output: Output = None,
        namespace: Namespace = None,
        context: Context = None,
        kubeconfig: Kubeconfig = None,
    ) -> None:
        _decide(_kubectl(namespace, context, kubeconfig), name, value, _how(dry_run, output), wait=wait)

    return decide


app.command("confirm", help="Keep the VM where it is now; the source's copy goes: `kubectl patch` of spec.decision.")(
    _deciding(DecisionValue.CONFIRM)
)
app.command("revert", help="Go back to the source; what the VM wrote at the target is given up: `kubectl patch` of spec.decision.")(
    _deciding(DecisionValue.REVERT)
)


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="The Migration; without it, all of the namespace.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until a decision is awaited, or it has ended.")] = False,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Those of all namespaces.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Tell how far a Migration is, and what can be done next; without a name, what `kubectl get` tells of all."""
    kubectl = _kubectl(namespace, context, kubeconfig)
    with _told():
        if name is None:
            kubectl.show("get", "migrations.kubeferry.io", *(["-A"] if all_namespaces else []), *(["-w"] if watch else []))
            return
        seen = _read(kubectl, name)
        if watch:
            seen = _follow(kubectl, name, lambda m: migration_page.awaits(m) or migration_page.ended(m))
        for line in migration_page.page(seen, datetime.now(UTC)):
            typer.echo(line)


def _decide(kubectl: Kubectl, name: str, value: DecisionValue, how: tuple[str, ...], *, wait: bool) -> None:
    patch = json.dumps({"spec": {"decision": value}}, separators=(",", ":"))
    words = ("patch", "migrations.kubeferry.io", name, "--type=merge", "-p", patch, f"--field-manager={FIELD_MANAGER}")
    with _told():
        kubectl.show(*words, *how)
        if not wait or how:
            return
        seen = _follow(kubectl, name, migration_page.ended)
    wanted = MigrationPhase.CONFIRMED if value == DecisionValue.CONFIRM else MigrationPhase.REVERTED
    _end(_phase(seen) == wanted, seen)


def _follow(kubectl: Kubectl, name: str, reached: Callable[[Migration], bool]) -> Migration:
    """Look at a Migration until it is where it is wanted, and tell each change; on a terminal in one line that is drawn anew."""
    shown, live = "", _is_terminal()
    while True:
        seen = _read(kubectl, name)
        trouble = migration_page.trouble(seen)
        line = migration_page.line(seen) + (f"  {trouble}" if trouble else "")
        if line != shown:
            typer.echo(f"{_REDRAW}{line}" if live else line, nl=not live, color=live)
            shown = line
        if reached(seen):
            typer.echo("", nl=live)
            return seen
        time.sleep(LOOK_EVERY)


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _read(kubectl: Kubectl, name: str) -> Migration:
    return load(Migration, kubectl.object("get", "migrations.kubeferry.io", name))


def _phase(migration: Migration) -> MigrationPhase | None:
    return None if migration.status is None else migration.status.phase


def _end(well: bool, seen: Migration) -> None:
    """End with 1 if it came otherwise than was asked, and say why."""
    if not well:
        for line in migration_page.page(seen, datetime.now(UTC)):
            typer.echo(line, err=True)
        raise typer.Exit(code=1)


def _how(dry_run: DryRun, output: str | None) -> tuple[str, ...]:
    tried = () if dry_run == DryRun.NONE else (f"--dry-run={dry_run}",)
    return tried if output is None else (*tried, "-o", output)


def _kubectl(namespace: str | None, context: str | None, kubeconfig: str | None) -> Kubectl:
    given = (("--namespace", namespace), ("--context", context), ("--kubeconfig", kubeconfig))
    return Kubectl([f"{flag}={value}" for flag, value in given if value is not None])


@contextmanager
def _told() -> Iterator[None]:
    """Let kubectl's own message be the last word where it was refused, and nothing where its user has stopped it."""
    try:
        yield
    except KubectlError as error:
        if str(error):
            typer.echo(str(error), err=True)
        raise typer.Exit(code=error.code) from None
    except KeyboardInterrupt:
        raise typer.Exit(code=INTERRUPTED) from None
