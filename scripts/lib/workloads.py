"""Runs real workloads in a daemon of its own, between all walls. A part of scripts/ci/workloads.

workloads.py EXECUTABLE [NAME...]

Each file of tests/fixtures/workloads is a program that must complete; each module of CPython's test suite must pass but for the
tests of cpython-except.txt, `module | pattern | why`, one a line. What fails is run once more, as CPython's own continuous integration
does: some of its tests count on a machine that has nothing else to do, and no wall comes and goes. Two at a time. In the end, `preloaded`:
a daemon whose Python has imported numpy and pandas already starts its guests by a fork, they compute, and no two of them draw the
same numbers.
"""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "tests/fixtures/workloads"
# Slowest first, so that none is left alone at the end.
MODULES = "test_multiprocessing_spawn test_asyncio test_subprocess test_socket test_threading test_os test_json".split()
# Seconds that one may take. A guest has a small share of the processors: beside twenty others who want them, it takes ten times as long.
PATIENCE = 1800
LANGUAGES = {".py": "python", ".js": "javascript"}

# Python's own way to run its tests, as anybody would call it; the walls are around its children as well. `-u none`: no test that
# asks for a network, a large file or much time. `-w`: what has failed is run once more.
RUN_MODULE = """
import os, subprocess, sys
def handler(event):
    with open("/tmp/except", "w") as file:
        file.write("\\n".join(event["except"]))
    command = [sys.executable, "-m", "test", "-u", "none", "-W", "-w", "--timeout", str(event["patience"]), "--ignorefile", "/tmp/except", event["module"]]
    # As much as is to be seen of a failure; `-v` would be megabytes.
    ended = subprocess.run(command, cwd="/tmp", stdin=subprocess.DEVNULL)
    return ended.returncode
"""


def exceptions():
    found = {}
    for line in (PROGRAMS / "cpython-except.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            module, pattern, why = (column.strip() for column in line.split("|"))
            if not why:
                sys.exit(f"error: excepted without a reason: {line}")
            found.setdefault(module, []).append(pattern)
    return found


def jobs():
    excepted = exceptions()
    for module in MODULES:
        event = {"module": module, "except": excepted.get(module, []), "patience": PATIENCE - 100}
        yield module, {"language": "python", "code": RUN_MODULE, "event": event}
    for path in sorted(PROGRAMS.iterdir()):
        if path.suffix in LANGUAGES:
            mode = "handler" if "handler" in path.read_text() else "script"
            yield path.name, {"language": LANGUAGES[path.suffix], "code": path.read_text(), "mode": mode}


class Daemon:
    def __init__(self, executable, directory, **settings):
        environment = {
            "PATH": os.environ["PATH"], "CONTROL_PLANE_URL": "none", "EXECUTOR_PORT": "0",
            "WORKSPACE_PATH": str(directory / "workspace"), "MAX_MEMORY_MB": "1024", "MAX_PROCESSES": "512",
            "MAX_FILE_SIZE_MB": "1024", **settings,
        }
        self.log = directory / "log"
        self.process = subprocess.Popen(
            [executable, "serve"], env=environment, stdout=subprocess.PIPE, stderr=open(self.log, "w"), text=True
        )
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            sys.exit("error: the daemon does not listen:\n" + self.log.read_text())
        self.url = line.strip().removeprefix("listening on ")
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def execute(self, name, request):
        body = {"execution_id": name, "session_id": name, "timeout": PATIENCE, **request}
        sent = urllib.request.Request(
            self.url + "/execute", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with self.opener.open(sent, timeout=PATIENCE + 100) as answer:
            return json.load(answer)

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


def passed(answer):
    return answer["status"] == "completed" and answer["return_value"] in (0, None)


def run(daemon, name, request):
    begin = time.monotonic()
    answer = daemon.execute(name, request)
    took = time.monotonic() - begin
    start = answer["metrics"]["start"]
    print(f"{'ok    ' if passed(answer) else 'FAILED'} {name:32} {took:6.1f} s  {start}", flush=True)
    for line in answer["stdout"].splitlines():
        if "Re-running test_" in line:
            print("      ", line, flush=True)
    if not passed(answer):
        error = answer["error"] or {}
        print(error.get("error_message", ""), answer["stdout"][-6000:], answer["stderr"][-6000:], sep="\n", flush=True)
    return passed(answer)


# Of the old generator, which a fork would have in common, and of the new one.
DRAW = """
import numpy
def handler(event):
    return [numpy.random.random(), numpy.random.default_rng().random(), int(numpy.ones((64, 64)).dot(numpy.ones(64))[0])]
"""


def run_preloaded(executable, directory):
    """With packages imported ahead, what they are for still works, in a fork."""
    daemon = Daemon(executable, directory, PYTHON_PRELOAD="numpy,pandas")
    try:
        science = {"language": "python", "code": (PROGRAMS / "science.py").read_text(), "mode": "script"}
        well = run(daemon, "preloaded-science.py", science)
        drawn = []
        for number in range(3):
            answer = daemon.execute(f"preloaded-draw-{number}", {"language": "python", "code": DRAW})
            if answer["status"] != "completed" or answer["metrics"]["start"] == "cold" or answer["return_value"][2] != 64:
                sys.exit(f"error: numpy preloaded comes to {json.dumps(answer, indent=2)}\n{daemon.log.read_text()}")
            drawn += answer["return_value"][:2]
        if len(set(drawn)) != len(drawn):
            sys.exit(f"error: guests have drawn the same numbers: {drawn}")
        return well
    finally:
        daemon.stop()


def main(executable, names):
    wanted = [(name, request) for name, request in jobs() if not names or name in names]
    preloaded = not names or "preloaded" in names
    if not wanted and not preloaded:
        sys.exit("error: no workload has such a name")
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        # Guests may be somebody else, and must be able to walk through.
        directory.chmod(0o711)
        daemon = Daemon(executable, directory)
        try:
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                results = list(pool.map(lambda job: run(daemon, *job), wanted))
        finally:
            daemon.stop()
        if preloaded:
            results.append(run_preloaded(executable, directory))
    if not all(results):
        sys.exit(f"{results.count(False)} of {len(results)} workloads failed")
    print(f"{len(results)} workloads passed")


if __name__ == "__main__":
    main(str(pathlib.Path(sys.argv[1]).resolve()), sys.argv[2:])
