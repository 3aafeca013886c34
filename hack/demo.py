"""Shows kubeferry on the real thing: a VM moves to another host and the move is confirmed; it moves on, and that move is reverted.

What follows a `$ kubectl` line is what that command printed; what follows `witness:` was looked at from outside of kubeferry. The run
ends with 0 only if every step was observed. `KEEP=1` leaves the lab running and prints how to go on with kubectl.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubeferry.api.migration import Transfer
from kubeferry.api.model import load
from kubeferry.cli.migration_page import transfer
from lab.guest import heartbeats, wait_heartbeats
from lab.lab import Lab
from lab.steps import LabError, NotYet, wait_until
from lab.table import Table
from lab.witness import qemu_by_host

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
VM, NODE = "web-0", "worker-1"
MOVE, BACK_OUT = "web-0-move", "web-0-back-out"
MOVE_SECONDS = 120.0
WIDTHS = {"PHASE": len("AwaitingDecision"), "SOURCE": len(NODE), "TARGET": len(NODE)}
"""Of columns that are empty or short in the first row of `kubectl get fmig`."""


class Demo:
    """The steps, each of which waits for what it shows."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._begun = time.monotonic()

    def say(self, text: str) -> None:
        """A headline, with the seconds since the start."""
        print(f"\n\033[1m[{time.monotonic() - self._begun:5.1f} s] {text}\033[0m", flush=True)

    def kubectl(self, *words: str) -> str:
        """Show a command and what it prints."""
        print(f"$ kubectl {' '.join(map(_quoted, words))}", flush=True)
        out = self._lab.kubectl(*words).stdout
        print(out.rstrip("\n"), flush=True)
        return out

    def start(self) -> None:
        """The lab; when this fails, none is left."""
        self.say("A control plane, three hosts with libvirt, the controller and an agent on each host")
        self._lab.start()

    def steps(self) -> None:
        """What it shows in a lab that was started."""
        self.kubectl("get", "computenodes")
        uid = self.boot()
        node = self.confirm(uid)
        self.revert(uid, node)

    def boot(self) -> str:
        """A VM boots; returns its uid."""
        self.say(f"A VM with one disk, on {NODE}")
        self.kubectl("apply", "-f", _example("vm.yaml"))
        self.kubectl("wait", f"fvm/{VM}", "--for=condition=Ready", "--timeout=60s")
        self.kubectl("get", "fvm")
        uid = str(self._object("fvm", VM)["metadata"]["uid"])
        self.console(uid, NODE, boot=1)
        return uid

    def confirm(self, uid: str) -> str:
        """A move that is confirmed; returns the node that the VM is on then."""
        self.say("It moves: power off, copy its disk, start it at the target, and wait for a decision")
        target = self.move("migration.yaml", MOVE)
        self.console(uid, target, boot=2)
        self.kubectl("get", "fmig", MOVE, "-o", "jsonpath={.status.transfer}")

        self.say("Confirm: the source's copy goes, nothing changes at the target")
        self.decide(MOVE, "Confirm")
        self.kubectl("get", "fvm")
        self.only_on(uid, target)
        return target

    def revert(self, uid: str, source: str) -> None:
        """A move that is reverted."""
        self.say("It moves on, and its guest writes to its disk at the new target")
        target = self.move("migration-back-out.yaml", BACK_OUT)
        self.console(uid, target, boot=3)
        before = heartbeats(self._disk(uid, source))
        at_target = wait_heartbeats(self._disk(uid, target), before)
        print(f"witness: the guest's log has {len(before)} lines on {source}, and {len(at_target)} more on {target}", flush=True)

        self.say(f"Revert: it is back on {source}, from its own disk")
        self.decide(BACK_OUT, "Revert")
        self.kubectl("wait", f"fvm/{VM}", "--for=condition=Ready", "--timeout=60s")
        self.console(uid, source, boot=3)
        self.kubectl("get", "fvm,fmig")
        after = wait_heartbeats(self._disk(uid, source), before)
        if not set(after).isdisjoint(at_target):
            raise LabError(f"the guest's log on {source} has lines that were written on {target}: {at_target}")
        print(f"witness: the guest's log goes on after those {len(before)} lines; what it wrote on {target} is gone", flush=True)
        self.only_on(uid, source)

    def move(self, manifest: str, name: str) -> str:
        """A Migration, until it awaits a decision; returns its target."""
        self.kubectl("create", "-f", _example(manifest))
        self.follow(name, "AwaitingDecision")
        self.kubectl("wait", f"fmig/{name}", "--for=condition=AwaitingDecision", "--timeout=30s")
        return str(self._object("fmig", name)["status"]["targetNode"])

    def decide(self, name: str, decision: str) -> None:
        """A decision, until it was carried out."""
        self.kubectl("patch", "fmig", name, "--type=merge", "-p", json.dumps({"spec": {"decision": decision}}, separators=(",", ":")))
        self.kubectl("wait", f"fmig/{name}", "--for=condition=Finished", "--timeout=55s")

    def follow(self, name: str, phase: str) -> None:
        """Show a Migration's row whenever it changes, until it is in a phase.

        Raises:
            LabError: it failed, or needs attention, or is not there in time; with what it tells.
        """
        print(f"$ kubectl get fmig {name}   # whenever it changes", flush=True)
        table, copied = Table(WIDTHS), ""

        def reached() -> None:
            nonlocal copied
            for line in table.changes(self._lab.kubectl("get", "fmig", name).stdout):
                print(line, flush=True)
            status = self._object("fmig", name).get("status", {})
            if "transfer" in status and (bar := transfer(load(Transfer, status["transfer"]))) != copied:
                print(f"  copied {bar}", flush=True)
                copied = bar
            if table.cells["PHASE"] == phase:
                return
            for condition in status.get("conditions", []):
                if (condition["type"], condition["status"]) in (("NeedsAttention", "True"), ("Succeeded", "False")):
                    raise LabError(f"{name}: {condition['type']}/{condition['reason']}: {condition['message']}")
            raise NotYet(f"its phase is {table.cells['PHASE'] or 'not told'}")

        wait_until(f"{name} to be in phase {phase}", reached, seconds=MOVE_SECONDS, log=self._lab.log("controller"))

    def console(self, uid: str, node: str, boot: int) -> None:
        """Wait for the guest's own words of that boot on that node, and show them."""
        log = self._lab.hosts[node].root / "instances" / uid / "console.log"

        def heard() -> str:
            said = re.findall(rf"(GUEST boot={boot} .*)\n", log.read_text(errors="replace")) if log.exists() else []
            if not said:
                raise NotYet("nothing yet")
            return str(said[-1]).strip()

        said = wait_until(f"boot {boot} of the guest", heard, seconds=60, log=log)
        print(f"console of the guest on {node}: {said}", flush=True)

    def only_on(self, uid: str, node: str) -> None:
        """See from outside that the VM is on one node only, as files and as a process.

        Raises:
            LabError: another copy of it does not go, or not this one process of it runs.
        """

        def one_copy() -> None:
            found = [name for name, host in self._lab.hosts.items() if (host.root / "instances" / uid).exists()]
            if found != [node]:
                raise NotYet(f"on {', '.join(found) or 'no host'}")

        wait_until(f"the VM's files to be on {node} only", one_copy, seconds=30, log=self._lab.log("controller"))
        running = qemu_by_host(self._lab.hosts, uid)
        if [*running] != [node] or len(running[node]) != 1:
            raise LabError(f"QEMU processes of the VM by host: {running}, expected one, on {node}")
        print(f"witness: files of the VM are on {node} only, and one QEMU process runs it there", flush=True)

    def _disk(self, uid: str, node: str) -> Path:
        return self._lab.hosts[node].root / "instances" / uid / "root.raw"

    def _object(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._lab.kubectl("get", kind, name, "-o", "json").stdout)
        return found


def shown(part: Callable[[], object]) -> bool:
    """Whether a part of the demo was observed; else its user was told why."""
    seen = True
    try:
        part()
    except* LabError as errors:  # what the lab does at once may fail at once, as a group
        seen = False
        for error in errors.exceptions:
            print(f"\nthe demo failed: {error}", file=sys.stderr)
    return seen


def main() -> int:
    """Run the demo, and clean up after it."""
    lab = Lab()
    demo = Demo(lab)
    if not shown(demo.start):
        return 1
    if os.environ.get("KEEP") == "1":
        observed = shown(demo.steps)
        print(f"\nThe lab runs on; `make clean-lab` removes it.\nexport KUBECONFIG={lab.kubeconfig()}")
        return 0 if observed else 1
    try:
        observed = shown(demo.steps)
    finally:
        removed = shown(lab.stop)
    if not (observed and removed):
        return 1
    demo.say("Every step was observed, and everything is removed again")
    return 0


def _example(name: str) -> str:
    return os.path.relpath(EXAMPLES / name)


def _quoted(word: str) -> str:
    """A word as a reader would type it."""
    return f"'{word}'" if set(word) & set('{}"') else word


if __name__ == "__main__":
    sys.exit(main())
