"""A part of scripts/measure-capacity: EXECUTABLE RUNS [--write].

CPU time and memory are those of the daemon and of everything that it has started, dead or alive, as control groups account them. --write puts what was measured into the table of inputs in docs/scaling.md.
"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs/scaling.md"
HELLO = {
    "python": "def handler(event):\n    return 'Hello'",
    "javascript": "exports.handler = () => 'Hello'",
    "shell": "echo Hello",
}
# Between a small pool and a large one; both of one language, so that the difference is slots and nothing else.
FEW, MANY = 2, 34
PATIENCE = 120


def own_group(controller):
    """The control group that we are in, of the hierarchy that has this controller; version 2 has but one."""
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return pathlib.Path(f"/sys/fs/cgroup/{controllers}{path}")
    return pathlib.Path("/sys/fs/cgroup" + path)


class Group:
    """Control groups for whatever is started by `enter` and for all that comes of it."""

    def __init__(self):
        name = f"measure-capacity-{os.getpid()}-{time.monotonic_ns()}"
        self.paths = {controller: own_group(controller) / name for controller in ["cpuacct", "memory"]}
        for path in self.paths.values():
            path.mkdir(exist_ok=True)

    def enter(self):
        for path in self.paths.values():
            (path / "cgroup.procs").write_text(str(os.getpid()))

    def read(self, controller, *names):
        """The first number in the first of these files that is there, and the file's name."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                return int(re.search(r"\d+", (self.paths[controller] / name).read_text())[0]), name
        sys.exit(f"error: {self.paths[controller]} has none of {', '.join(names)}")

    def cpu_seconds(self):
        used, name = self.read("cpuacct", "cpuacct.usage", "cpu.stat")
        return used / (1e9 if name == "cpuacct.usage" else 1e6)

    def memory_mib(self):
        """With what the kernel keeps for it: page tables, namespaces, files in memory."""
        return self.read("memory", "memory.usage_in_bytes", "memory.current")[0] / (1 << 20)

    def remove(self):
        for group in set(self.paths.values()):
            # Those below first; the daemon removes its own, and one that was killed could not.
            for path in sorted(group.rglob("*/"), reverse=True):
                with contextlib.suppress(OSError):
                    path.rmdir()
            group.rmdir()


class Daemon:
    def __init__(self, executable, **settings):
        self.directory = tempfile.TemporaryDirectory()
        os.chmod(self.directory.name, 0o711)
        self.group = Group()
        environment = {"EXECUTOR_PORT": "0", "CONTROL_PLANE_URL": "none", "LOG_LEVEL": "error"}
        environment |= {"WORKSPACE_PATH": f"{self.directory.name}/workspace"} | settings
        self.process = subprocess.Popen(
            [executable, "serve"], env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=self.group.enter
        )
        address = self.process.stdout.readline().strip().removeprefix("listening on http://")
        self.connection = http.client.HTTPConnection(address)
        self.number = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.group.remove()
        self.directory.cleanup()

    def ask(self, method, path, body=None):
        self.connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
        return json.load(self.connection.getresponse())

    def execute(self, language):
        self.number += 1
        body = {"execution_id": f"run-{self.number}", "session_id": language, "language": language, "code": HELLO[language]}
        answer = self.ask("POST", "/execute", body)
        assert answer["status"] == "completed", answer
        return answer["metrics"]

    def pools(self):
        return self.ask("GET", "/info").get("warm_pools", [])

    def settle(self, pause=0.05):
        """Until every pool that is not in trouble has as many slots as it wants."""
        deadline = time.monotonic() + PATIENCE
        while any(not pool.get("trouble") and pool["ready"] < pool["target"] for pool in self.pools()):
            assert time.monotonic() < deadline, self.pools()
            time.sleep(pause)


def cpu_per_run(daemon, language, runs):
    """Milliseconds, with all that making the next slot costs; and the ways in which the runs started."""
    daemon.execute(language)
    daemon.settle()
    before = daemon.group.cpu_seconds()
    metrics = [daemon.execute(language) for _ in range(runs)]
    daemon.settle()
    spent = (daemon.group.cpu_seconds() - before) * 1000 / runs
    return spent, "/".join(sorted({one["start"] for one in metrics})), metrics


def slot_memory(executable):
    """Of one slot, in MiB: the difference between many and few; `None` where there are none."""
    memory, ready = [], []
    for count in map(str, (FEW, MANY)):
        with Daemon(executable, WARM_POOL_MIN=count, WARM_POOL_MAX=count, MAX_CONCURRENT_EXECUTIONS=str(MANY)) as daemon:
            daemon.settle()
            memory.append(daemon.group.memory_mib())
            ready.append(sum(pool["ready"] for pool in daemon.pools()))
    return (memory[1] - memory[0]) / (ready[1] - ready[0]) if ready[1] > ready[0] else None


def refill_seconds(daemon, language):
    """The usual time from the answer of a run until there is a slot again in the place of the one that it took."""
    took = []
    for _ in range(21):
        daemon.execute(language)
        begin = time.monotonic()
        daemon.settle(0.001)
        took.append(time.monotonic() - begin)
    return statistics.median(took)


def write(measured):
    text = PAGE.read_text()
    for name, value in measured.items():
        text, count = re.subn(rf"^(\| `{name}` \| )[^|]+?( \|)", rf"\g<1>{value}\2", text, flags=re.MULTILINE)
        assert count == 1, f"docs/scaling.md has no input {name}"
    PAGE.write_text(text)


def main(executable, runs, *options):
    measured = {}
    print("| Language | Start | CPU per run | of these the guest's | Peak memory |")
    print("| --- | --- | --- | --- | --- |")
    for kind, settings in [("cold", {"WARM_POOL": "false"}), ("warm", {})]:
        with Daemon(executable, **settings) as daemon:
            daemon.settle()
            for language in HELLO:
                spent, starts, metrics = cpu_per_run(daemon, language, runs)
                guest = sum(one["cpu_time_ms"] or 0 for one in metrics) / runs
                peak = max(one["peak_memory_mb"] or 0 for one in metrics)
                print(f"| {language} | {starts} | {spent:.1f} ms | {guest:.1f} ms | {peak:.1f} MiB |", flush=True)
                measured[f"cpu_ms_{kind}_{language}"] = f"{spent:.0f} ms" if spent >= 10 else f"{spent:.1f} ms"
            if kind == "warm":
                refill = refill_seconds(daemon, "python")
            print(f"\nthe daemon itself, {kind}: {daemon.group.memory_mib():.0f} MiB with its pools\n")
    if memory := slot_memory(executable):
        print(f"a warm slot: {memory:.1f} MiB, another one is there after {refill * 1000:.0f} ms")
        measured["memory_mb_per_warm_slot"] = f"{memory:.1f} MiB"
        measured["slot_refill_s"] = f"{refill:.3f} s"
    if "--write" in options:
        write(measured)


main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
