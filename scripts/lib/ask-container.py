"""Asks a daemon in a container what a user would ask, from outside. A part of scripts/test-image and scripts/test-compose.

ask-container.py URL ready                      waits until a sandbox can be started
ask-container.py URL examples DIRECTORY         sends every request of docs/examples
ask-container.py URL hostile                    sends guests that attack, and looks whether the daemon minds
ask-container.py URL warm                       waits until no language starts cold
ask-container.py URL data-science               asks for what this variant of the image is for
ask-container.py URL stop-meanwhile COMMAND...  starts runs, then the command; every caller must be answered
ask-container.py URL reported URL               runs something, and waits until the control plane there shows it
ask-container.py start-to-ready STARTED LOG     compares the runtime's stamp with the daemon's, in seconds
"""

import concurrent.futures
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

# Nothing on the way: the container is on this host.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
PATIENCE = 60
START_TO_READY = 1.0


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("INTERNAL_API_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, data, headers)
    try:
        with OPENER.open(request, timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def execute(url, **fields):
    identity = f"container-{time.time_ns()}"
    return ask(url + "/execute", {"execution_id": identity, "session_id": "container"} | fields)


def must(condition, message):
    if not condition:
        sys.exit(f"error: {message}")


def ready(url):
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            status, answer = ask(url + "/health")
            if status == 200:
                return
        except OSError as error:
            answer = error
        must(time.monotonic() < deadline, f"not ready: {answer}")
        time.sleep(0.05)


def examples(url, directory):
    requests = sorted(pathlib.Path(directory).glob("*.json"))
    must(requests, f"no examples in {directory}")
    for path in requests:
        status, answer = ask(url + "/execute", json.loads(path.read_text()))
        wanted = "timeout" if path.stem == "limits" else "completed"
        must(
            (status, answer.get("status")) == (200, wanted),
            f"{path}: {status} {json.dumps(answer)}",
        )
    print(f"{len(requests)} examples do what they show")


def warm(url):
    deadline = time.monotonic() + PATIENCE
    languages = {
        "python": "def handler(event):\n    return event",
        "javascript": "exports.handler = (event) => event",
        "shell": "true",
    }
    for language, code in languages.items():
        while True:
            status, answer = execute(url, language=language, code=code)
            must((status, answer.get("status")) == (200, "completed"), f"{language}: {status} {answer}")
            start = answer["metrics"]["start"]
            if start != "cold":
                break
            must(time.monotonic() < deadline, f"{language} starts cold: {ask(url + '/info')[1]['warm_pools']}")
            time.sleep(0.2)
        print(f"{language} starts {start}")


def hostile(url):
    """A few from outside; the escape suite has the rest. Each must end as it should, and the daemon must stay well."""
    port = r"import socket; socket.create_connection(('127.0.0.1', 8080), 2)"
    system = "echo x > /usr/bin/planted && echo WRITTEN; echo x > /etc/planted && echo WRITTEN; true"
    token = "tr '\\0' '\\n' < /proc/1/environ; env"
    neighbours = "ls /workspace/.. ; cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    attacks = {
        "a loop without end": (dict(language="python", code="while True: pass", mode="script", timeout=1), "timeout"),
        "more memory than there is": (
            dict(language="python", code="x = bytearray(4 << 30)", mode="script"),
            ("failed", "crashed"),
        ),
        "processes without end": (
            dict(language="shell", code="f() { f | f & }; f; sleep 1; true", timeout=10),
            ("completed", "failed", "crashed", "timeout"),
        ),
        "output without end": (dict(language="shell", code="yes", timeout=2), "timeout"),
        "the daemon's own port": (dict(language="python", code=port, mode="script"), "failed"),
        "writing to the system": (dict(language="shell", code=system), "completed"),
        "the daemon's environment": (dict(language="shell", code=token), ("completed", "failed")),
        "somebody else's processes": (dict(language="shell", code=neighbours), ("completed", "failed")),
    }
    for name, (fields, wanted) in attacks.items():
        status, answer = execute(url, **fields)
        must(status == 200 and answer["status"] in wanted, f"{name}: {status} {json.dumps(answer)[:2000]}")
        told = answer["stdout"] + answer["stderr"]
        for secret in ["WRITTEN", "EXECUTOR_HOST", "tini", "sandbox-executor serve"]:
            must(secret not in told, f"{name}: {secret} in {told[:2000]}")
    # Positive control: a guest still runs, with what it was given.
    status, answer = execute(url, language="shell", code="echo $GIVEN", env_vars={"GIVEN": "alive"})
    must(answer.get("stdout") == "alive\n", f"after the attacks: {status} {answer}")
    status, answer = ask(url + "/health")
    must(status == 200 and answer["active_executions"] == 0, f"after the attacks: {status} {answer}")
    print(f"{len(attacks)} attacks, and the daemon is well")


def data_science(url):
    code = """import io, matplotlib, numpy, openpyxl, pandas, scipy.linalg
from PIL import Image
def handler(event):
    matrix = numpy.array(event['matrix'])
    book = io.BytesIO()
    pandas.DataFrame(matrix).to_excel(book)
    Image.new('RGB', (2, 2)).save('picture.png')
    matplotlib.use('Agg')
    import matplotlib.pyplot as pyplot
    pyplot.plot(matrix[0])
    pyplot.savefig('plot.png')
    return [round(scipy.linalg.det(matrix)), openpyxl.load_workbook(book).active['B2'].value]
"""
    status, answer = execute(url, language="python", code=code, event={"matrix": [[1, 2], [3, 4]]}, timeout=60)
    must((status, answer.get("return_value")) == (200, [-2, 1]), f"data science: {status} {json.dumps(answer)[:2000]}")
    # The open figure is kept as well.
    kept = ["figure-1.png", "picture.png", "plot.png"]
    must(sorted(one["path"] for one in answer["artifacts"]) == kept, f"data science: {answer['artifacts']}")
    print("numpy, pandas, matplotlib, pillow, scipy and openpyxl do their work")


def stop_meanwhile(url, command):
    # As many as the smallest of the documented daemons runs at the same time.
    callers = 6
    code = "import time\ndef handler(event):\n    time.sleep(2)\n    return event['n']"
    with concurrent.futures.ThreadPoolExecutor(callers) as pool:
        runs = [pool.submit(execute, url, language="python", code=code, event={"n": n}) for n in range(callers)]
        deadline = time.monotonic() + PATIENCE
        while ask(url + "/health")[1]["active_executions"] < callers:
            must(time.monotonic() < deadline, "the runs do not start")
            time.sleep(0.02)
        stopped = subprocess.run(command, capture_output=True, text=True)
        must(stopped.returncode == 0, f"{command}: {stopped.stderr}")
        for n, run in enumerate(runs):
            status, answer = run.result()
            must((status, answer.get("return_value")) == (200, n), f"run {n}: {status} {answer}")
    print(f"{callers} runs were on at the stop, and {callers} callers have their results")


def reported(url, control_plane):
    identity = f"reported-{time.time_ns()}"
    status, answer = execute(url, execution_id=identity, language="shell", code="echo seen")
    must((status, answer.get("status")) == (200, "completed"), f"{status} {answer}")
    deadline = time.monotonic() + PATIENCE
    while True:
        status, answer = ask(control_plane + "/api/v1/executions")
        if status == 200 and identity in json.dumps(answer) and "seen" in json.dumps(answer):
            break
        must(time.monotonic() < deadline, f"the control plane does not show {identity}: {status} {answer}")
        time.sleep(0.2)
    print(f"the control plane shows {identity}")


def start_to_ready(started, log):
    listening = next(
        (record for line in open(log) if '"listening"' in line and (record := json.loads(line))), None
    )
    must(listening, f"{log}: nobody listens")
    # Go's format: nanoseconds, a zone as an offset, and its name.
    match = re.match(r"(\S+) (\d+:\d+:\d+)(\.\d+)? ([+-]\d{4})", started)
    must(match, f"what time is {started}?")
    date, clock, fraction, zone = match.groups()
    begin = datetime.datetime.strptime(f"{date} {clock}{(fraction or '.0')[:7]} {zone}", "%Y-%m-%d %H:%M:%S.%f %z")
    end = datetime.datetime.fromisoformat(listening["timestamp"].replace("Z", "+00:00"))
    took = (end - begin).total_seconds()
    print(f"start to ready: {took:.2f} s")
    must(took <= START_TO_READY, f"start to ready took {took:.2f} s, {START_TO_READY} s are promised")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["start-to-ready", started, log]:
            start_to_ready(started, log)
        case [url, "data-science"]:
            data_science(url)
        case [url, "ready"]:
            ready(url)
        case [url, "examples", directory]:
            examples(url, directory)
        case [url, "warm"]:
            warm(url)
        case [url, "hostile"]:
            hostile(url)
        case [url, "reported", control_plane]:
            reported(url, control_plane)
        case [url, "stop-meanwhile", *command]:
            stop_meanwhile(url, command)
        case _:
            sys.exit(__doc__)
