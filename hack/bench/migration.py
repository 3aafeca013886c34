"""The time of one migration beside the sum of its unavoidable parts, measured in one run of one lab.

Ours: from `kubectl create` of a Migration to the guest's first words at the target. Unavoidable: the same guest is shut down by its
power button, its files are copied by cp, and it is booted, each by itself and by nothing but virsh and cp. Medians of a few rounds go
to build/bench/migration.json.
"""

import json
import statistics
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from lab import paths
from lab.hosts import Host
from lab.lab import Lab
from lab.steps import NotYet, wait_until

ROUNDS = 5
VM, NODES = "bench", ("worker-1", "worker-2")
RESULT = paths.REPOSITORY / "build" / "bench" / "migration.json"
VIRSH = ("/usr/bin/virsh", "-c", "qemu:///system")
ROOT = "/var/lib/kubeferry"
FILES = ("kernel", "initrd", "root.raw")
GIVE_UP_SECONDS = 120.0


def main() -> None:
    """Measure, write, and tell."""
    with Lab(NODES) as lab:
        uid = boot(lab)
        ours, unavoidable, parts = [], [], []
        for number in range(ROUNDS):
            source, target = NODES[number % 2], NODES[(number + 1) % 2]
            ours.append(migrate(lab, uid, number, target))
            parts.append(measure_parts(lab.hosts[target], uid, source))
            unavoidable.append(sum(parts[-1].values()))
    case = f"one migration of a 64 MiB disk with 1 guest, median of {ROUNDS}"
    medians = statistics.median(ours), statistics.median(unavoidable)
    entry = {
        "case": case,
        "unit": "s",
        "ours": round(medians[0], 2),
        "peers": {"unavoidable": round(medians[1], 2)},
        "ratio": round(medians[0] / medians[1], 2),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps([entry], indent=2) + "\n")
    for name in parts[0]:
        print(f"{name:12} {statistics.median(each[name] for each in parts):6.2f} s")
    print(f"unavoidable  {medians[1]:6.2f} s\nmigration    {medians[0]:6.2f} s\noverhead     {medians[0] - medians[1]:6.2f} s, in {RESULT}")


def boot(lab: Lab) -> str:
    """A VM that runs on the first host; its uid."""
    example = json.loads(
        lab.kubectl("create", "--dry-run=client", "-o", "json", "-f", str(paths.REPOSITORY / "examples" / "vm.yaml")).stdout
    )
    example["metadata"]["name"] = VM
    lab.kubectl("create", "-f", "-", stdin=json.dumps(example))
    uid = str(json.loads(lab.kubectl("get", "fvm", VM, "-o", "json").stdout)["metadata"]["uid"])
    wait(lab.hosts[NODES[0]], lambda: console(lab.hosts[NODES[0]].root / "instances" / uid, 1))
    return uid


def migrate(lab: Lab, uid: str, number: int, target: str) -> float:
    """Seconds that one migration takes; it is confirmed, and over, when this returns."""
    spec = {"virtualMachine": {"name": VM}, "targetNode": target, "decision": "Confirm"}
    name = f"{VM}-{number}"
    manifest = {"apiVersion": "kubeferry.io/v1alpha1", "kind": "Migration", "metadata": {"name": name}, "spec": spec}
    begun = time.monotonic()
    lab.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    wait(lab.hosts[target], lambda: console(lab.hosts[target].root / "instances" / uid, number + 2))
    taken = time.monotonic() - begun
    lab.kubectl("wait", f"fmig/{name}", "--for=condition=Confirmed", "--timeout=50s")
    return taken


def measure_parts(host: Host, uid: str, came_from: str) -> dict[str, float]:
    """Seconds of each part, by nothing but virsh and cp, with a second guest of the same files on the same host.

    Args:
        host: where the VM is now.
        uid: of the VM.
        came_from: node that its copy came from, for the name of the second guest's directory.
    """
    instance, bench = f"{ROOT}/instances/{uid}", f"{ROOT}/bench-{came_from}"
    other = str(uuid.uuid4())
    xml = host.run([*VIRSH, "dumpxml", uid]).stdout.replace(uid, other).replace(f"{ROOT}/instances/{other}", bench)
    name = xml.split("<name>")[1].split("</name>")[0]
    xml = xml.replace(f"<name>{name}</name>", f"<name>{other}</name>")
    host.run(["mkdir", "-p", bench])
    files = " ".join(f"{instance}/{name}" for name in FILES)
    taken = {"copy": timed(lambda: host.run(["bash", "-c", f"cp --sparse=always {files} {bench}/ && sync -f {bench}/root.raw"]))}
    outside = host.root / bench.removeprefix(f"{ROOT}/")
    (outside / "domain.xml").write_text(xml)

    def start() -> None:
        host.run([*VIRSH, "create", f"{bench}/domain.xml"])
        wait(host, lambda: console(outside, None))

    def stop() -> None:
        host.run([*VIRSH, "shutdown", other])
        wait(host, lambda: gone(host, other))

    taken["boot"] = timed(start)
    taken["shutdown"] = timed(stop)
    host.run(["rm", "-r", bench])
    return taken


def timed(act: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


def wait(host: Host, look: Callable[[], None]) -> None:
    """Wait for what is looked at."""
    wait_until(f"a guest of {host.name}", look, seconds=GIVE_UP_SECONDS)


def console(directory: Path, boot: int | None) -> None:
    """That a guest was heard, at that boot of its disk or at any."""
    log = directory / "console.log"
    said = log.read_text(errors="replace") if log.exists() else ""
    if f"GUEST boot={'' if boot is None else f'{boot} '}" not in said:
        raise NotYet(f"its console ends with {said[-200:]!r}")


def gone(host: Host, uuid_of_it: str) -> None:
    """That a guest is off."""
    if uuid_of_it in host.run([*VIRSH, "list", "--uuid"]).stdout:
        raise NotYet("it runs")


if __name__ == "__main__":
    main()
