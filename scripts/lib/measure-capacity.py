"""A part of scripts/measure-capacity: EXECUTABLE RUNS."""

import http.client
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HELLO = {
    "python": "def handler(event):\n    return 'Hello'",
    "javascript": "exports.handler = () => 'Hello'",
    "shell": "echo Hello",
}


def cpu_seconds(pid):
    """Of the process and of its children that have ended, theirs included (proc(5), utime to cstime)."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def main(executable, runs):
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o711)
        settings = {"EXECUTOR_PORT": "0", "CONTROL_PLANE_URL": "none", "WORKSPACE_PATH": f"{name}/workspace", "LOG_LEVEL": "error"}
        daemon = subprocess.Popen([executable, "serve"], env=settings, stdout=subprocess.PIPE, text=True)
        try:
            address = daemon.stdout.readline().strip().removeprefix("listening on http://")
            connection = http.client.HTTPConnection(address)

            def execute(language, number):
                body = {"execution_id": f"{language}-{number}", "session_id": language, "language": language, "code": HELLO[language]}
                connection.request("POST", "/execute", json.dumps(body), {"Content-Type": "application/json"})
                answer = json.load(connection.getresponse())
                assert answer["status"] == "completed", answer
                return answer["metrics"]

            print("| Language | Start | CPU per run | of these the guest's | Peak memory |")
            print("| --- | --- | --- | --- | --- |")
            for language in HELLO:
                execute(language, "first")
                before = cpu_seconds(daemon.pid)
                metrics = [execute(language, number) for number in range(runs)]
                spent = (cpu_seconds(daemon.pid) - before) * 1000 / runs
                guest = sum(one["cpu_time_ms"] or 0 for one in metrics) / runs
                peak = max(one["peak_memory_mb"] or 0 for one in metrics)
                starts = "/".join(sorted({one["start"] for one in metrics}))
                print(f"| {language} | {starts} | {spent:.1f} ms | {guest:.1f} ms | {peak:.1f} MiB |")
            print(f"\nthe daemon itself: {rss_mib(daemon.pid):.0f} MiB")
        finally:
            daemon.terminate()
            daemon.wait(60)


main(sys.argv[1], int(sys.argv[2]))
