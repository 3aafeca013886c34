"""Shows kubeferry on the real thing: a VM boots on one of three hosts, the host loses power, and the VM comes back.

Every line below a command is what that command printed; the run ends with 0 only if every step was observed.
`KEEP=1` leaves the lab running and prints how to go on with kubectl.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lab.lab import Lab
from lab.steps import LabError, NotYet, wait_until

MANIFEST = Path(__file__).resolve().parent.parent / "examples" / "vm.yaml"
VM = "web-0"
NODE = "worker-1"


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
        print(f"$ kubectl {' '.join(words)}", flush=True)
        out = self._lab.kubectl(*words).stdout
        print(out, end="", flush=True)
        return out

    def console(self, uid: str, boot: int) -> None:
        """Wait for the guest's own words of that boot, and show them."""
        log = self._lab.hosts[NODE].root / "instances" / uid / "console.log"

        def heard() -> str:
            said = re.findall(rf"(GUEST boot={boot} .*)\n", log.read_text(errors="replace")) if log.exists() else []
            if not said:
                raise NotYet("nothing yet")
            return str(said[-1]).strip()

        print(f"console of the guest: {wait_until(f'boot {boot} of the guest', heard, seconds=60, log=log)}", flush=True)

    def start(self) -> None:
        """The lab; when this fails, none is left."""
        self.say("A control plane, three hosts with libvirt, the controller and an agent on each host")
        self._lab.start()

    def steps(self) -> None:
        """What it shows in a lab that was started."""
        self.kubectl("get", "computenodes")

        self.say(f"A VM with one disk, on {NODE}")
        self.kubectl("apply", "-f", os.path.relpath(MANIFEST))
        self.kubectl("wait", f"fvm/{VM}", "--for=condition=Ready", "--timeout=60s")
        self.kubectl("get", "fvm")
        uid = str(json.loads(self._lab.kubectl("get", "fvm", VM, "-o", "json").stdout)["metadata"]["uid"])
        self.console(uid, boot=1)

        self.say(f"{NODE} loses power: libvirt, QEMU and the agent die at once")
        self._lab.hosts[NODE].power_cut()

        self.say("Power is back: the agent publishes its new boot, asks the start gate, and starts the VM from its own disk")
        self._lab.hosts[NODE].boot()
        self._lab.start_agent(NODE)
        self.console(uid, boot=2)
        self.kubectl("wait", f"fvm/{VM}", "--for=condition=Ready", "--timeout=60s")
        self.kubectl("get", "fvm")
        self.kubectl("get", "placements")


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


if __name__ == "__main__":
    sys.exit(main())
