"""Is what the documentation shows there: links, paths, commands and their flags? A part of scripts/ci/docs.

check-docs.py                   checks links, paths and commands; runs nothing
check-docs.py run EXECUTABLE    runs the blocks that are marked so, against a daemon of their own

A block is run where the line before it is `<!-- run -->`, in a directory of its own, with `localhost:8080` replaced by the daemon's
address and `sandbox-executor` on the PATH. A `console` block shows commands after `$` and what they print; only as much as stands
before an ellipsis is compared, white space aside.
"""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import unicodedata

ROOT = pathlib.Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
# Folders of the repository: what begins like this is a path in it, wherever it is mentioned.
REPOSITORY_PATH = re.compile(r"(?<![\w./*-])((?:scripts|deploy|docs|crates|tests)/[\w./*-]*[\w*])")
# Made by a build or by an operator, or written as a pattern.
NOT_HERE = ("docs.rs",)

# Commands whose arguments are somebody else's business. Everything else must be known below.
FOREIGN = {
    "apt-get", "apparmor_parser", "brew", "systemd-sysusers", "systemd-tmpfiles", "systemd-analyze", "cat", "cd", "chmod", "dpkg", "echo", "export", "for", "git", "install", "journalctl",
    "kill", "modprobe", "openssl", "printf", "sleep", "sed", "sudo", "sysctl", "systemctl", "tee", "wait", "xcode-select", "jq", "mkdir",
    "rustup", "security", "sh", "source", "sqlite3", ".", "python3", "pip", "test", "true", "setpriv",
}
# What other people's programs are told to do here.
VERBS = {
    "docker": {"build", "run", "stop", "compose", "exec", "logs"},
    "podman": {"build", "run", "stop", "exec", "healthcheck"},
    "kubectl": {"apply", "create", "get", "logs", "exec", "label", "rollout", "port-forward"},
    "helm": {"install", "upgrade"},
    "systemctl": {"daemon-reload", "enable", "restart", "status", "stop", "edit"},
}
SETTINGS = (ROOT / "docs/configuration.md").read_text()
problems = []


def problem(where, what):
    problems.append(f"{where}: {what}")


def pages():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )
    # A decision tells of its own time; the rest must be true now.
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def slug(heading):
    heading = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    kept = [c for c in heading if c in " -_" or unicodedata.category(c)[0] in "LN"]
    return "".join(kept).replace(" ", "-")


def anchors(page):
    text = FENCE.sub("", page.read_text())
    return {slug(match.group(1)) for match in re.finditer(r"^#+ (.*)$", text, re.MULTILINE)}


def check_links(page, text):
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    for match in LINK.finditer(prose):
        target = match.group(1)
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            problem(page.relative_to(ROOT), f"dead link {target}")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            problem(page.relative_to(ROOT), f"no heading for {target}")


def check_paths(page, text):
    if page.parent.name == "adr":
        return
    for match in REPOSITORY_PATH.finditer(re.sub(r"\]\([^)]*\)", "]", text)):
        path = match.group(1)
        if path.startswith(NOT_HERE) or "…" in path:
            continue
        found = list(ROOT.glob(path)) if "*" in path else (ROOT / path).exists()
        if not found:
            problem(page.relative_to(ROOT), f"there is no {path}")


# Has bash itself take a block apart: with extdebug, a command whose DEBUG trap fails is skipped, so nothing runs.
TAKE_APART = r"""
shopt -s extdebug
set -T
take() {
    case $1 in "for "* | "case "* | "select "* | "(("*) return 0 ;; esac
    printf '%s\0' "$1" >&9
    return 1
}
trap 'take "$BASH_COMMAND"' DEBUG
"""


def commands(block):
    with tempfile.TemporaryDirectory() as directory:
        listed = pathlib.Path(directory) / "commands"
        listed.touch()
        with open(listed, "ab") as sink:
            os.set_inheritable(sink.fileno(), True)
            code = TAKE_APART.replace(">&9", f">&{sink.fileno()}") + block
            ended = subprocess.run(
                ["/bin/bash", "--norc", "-c", code], cwd=directory, pass_fds=[sink.fileno()], capture_output=True,
                text=True, timeout=20, stdin=subprocess.DEVNULL, env={"PATH": "/nonexistent"},
            )
        if "syntax error" in ended.stderr:
            raise ValueError(ended.stderr.strip().splitlines()[0])
        return [command for command in listed.read_text().split("\0") if command]


def words(command):
    split = shlex.split(command, comments=False)
    while split and re.match(r"^\w+=", split[0]):
        split.pop(0)
    kept, skip = [], False
    for word in split:
        if skip:
            skip = False
        elif re.match(r"^\d*(>>?|<)&?$", word):
            skip = True
        elif not re.match(r"^\d*(>>?|<)", word):
            kept.append(word)
    return kept


def help_of(executable, subcommand, cache={}):
    if subcommand not in cache:
        arguments = [executable] + ([subcommand] if subcommand else []) + ["--help"]
        shown = subprocess.run(arguments, capture_output=True, text=True)
        cache[subcommand] = shown.stdout if shown.returncode == 0 else None
    return cache[subcommand]


def check_executor(where, argv, executable):
    rest = argv[1:]
    subcommand = rest[0] if rest and not rest[0].startswith("-") else None
    text = help_of(executable, subcommand)
    if text is None:
        problem(where, f"sandbox-executor has no command {subcommand}")
        return
    for word in rest:
        flag = word.split("=")[0]
        if flag.startswith("--") and flag != "--" and not re.search(rf"{re.escape(flag)}\b", text):
            problem(where, f"sandbox-executor {subcommand or ''} has no flag {flag}")


def values_of(chart):
    """Names of values, dotted; enough of YAML for a file that is ours."""
    names, stack = set(), []
    for line in (ROOT / chart / "values.yaml").read_text().splitlines():
        match = re.match(r"^( *)([\w.-]+):", line)
        if match:
            depth = len(match.group(1)) // 2
            stack = stack[:depth] + [match.group(2)]
            names.add(".".join(stack))
    return names


def must_exist(where, path):
    if not (ROOT / path).exists():
        problem(where, f"there is no {path}")


def after(argv, *flags):
    for flag, value in zip(argv, argv[1:]):
        if flag in flags:
            yield value
    for word in argv:
        for flag in flags:
            if word.startswith(flag + "="):
                yield word[len(flag) + 1 :]


def check_command(where, argv, executable):
    program = argv[0]
    if program == "sudo" and len(argv) > 1:
        check_command(where, argv[1:], executable)
    elif program in VERBS and not VERBS[program] & set(argv[1:4]):
        problem(where, f"{program} is told to do none of {sorted(VERBS[program])}")
    elif program in FOREIGN or program.startswith("./"):
        pass
    elif program.startswith(("scripts/", "deploy/")):
        if not os.access(ROOT / program, os.X_OK):
            problem(where, f"{program} is not executable")
        if program == "scripts/test":
            for stage in argv[1:]:
                if stage != "quick":
                    must_exist(where, f"scripts/ci/{stage}")
    elif pathlib.Path(program).name == "sandbox-executor":
        check_executor(where, argv, executable)
    elif pathlib.Path(program).name == "sandbox-control-plane":
        source = (ROOT / "crates/sandbox-control-plane/src/cli.rs").read_text()
        for word in argv[1:]:
            field = word.split("=")[0].removeprefix("--").replace("-", "_")
            if word.startswith("--") and not re.search(rf"^    {field}: ", source, re.MULTILINE):
                problem(where, f"sandbox-control-plane has no flag {word}")
    elif program == "just":
        recipes = re.findall(r"^([\w-]+)(?: [^:\n]+)?:(?!=)", (ROOT / "justfile").read_text(), re.MULTILINE)
        for recipe in argv[1:2]:
            if recipe not in recipes:
                problem(where, f"the justfile has no {recipe}")
    elif program == "cargo":
        for example in after(argv, "--example"):
            if not list(ROOT.glob(f"crates/*/examples/{example}.rs")):
                problem(where, f"there is no example {example}")
        for package in after(argv, "-p"):
            if package.startswith(("executor-", "sandbox-")) and package != "sandbox-executor-tests":
                must_exist(where, f"crates/{package}")
    elif program in ("docker", "podman"):
        for file in after(argv, "-f", "--file"):
            must_exist(where, file)
        for option in after(argv, "--security-opt"):
            if option.startswith("seccomp=") and option != "seccomp=unconfined":
                must_exist(where, option.removeprefix("seccomp="))
        for argument in after(argv, "--build-arg"):
            name = argument.partition("=")[0]
            if not re.search(rf"^ARG {name}\b", (ROOT / "deploy/docker/Dockerfile").read_text(), re.MULTILINE):
                problem(where, f"the Dockerfile has no argument {name}")
        for variable in after(argv, "-e", "--env"):
            if f"`{variable.partition('=')[0]}`" not in SETTINGS:
                problem(where, f"there is no setting {variable}")
    elif program == "kubectl":
        for overlay in after(argv, "-k"):
            must_exist(where, f"{overlay}/kustomization.yaml")
    elif program == "helm":
        for chart in [word for word in argv if word.startswith("deploy/")]:
            if chart.endswith(".yaml"):
                must_exist(where, chart)
                continue
            must_exist(where, f"{chart}/Chart.yaml")
            for setting in after(argv, "--set"):
                name = setting.partition("=")[0]
                if name not in values_of(chart):
                    problem(where, f"the chart has no value {name}")
    elif program in ("curl", "execute"):
        check_request(where, argv)
    else:
        problem(where, f"nobody checks the command {program}: teach scripts/lib/check-docs.py")


def check_request(where, argv):
    described = (ROOT / "docs/api.md").read_text()
    for word in argv:
        match = re.search(r"(?:localhost|127\.0\.0\.1):8080(/[\w/{}.-]*)", word)
        if match:
            route = "/" + match.group(1).strip("/").split("/")[0]
            if f"{route}`" not in described and f"{route}/" not in described:
                problem(where, f"docs/api.md has no route {route}")
        if word.startswith("{"):
            try:
                json.loads(word)
            except ValueError as error:
                problem(where, f"a body that is not JSON: {error}")


def check_blocks(page, text, executable):
    for match in FENCE.finditer(text):
        language, block = match.groups()
        where = f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}"
        if language == "console":
            block = "\n".join(prompts(block)[0])
        elif language == "json" and "…" not in block:
            try:
                json.loads(block)
            except ValueError as error:
                problem(where, f"not JSON: {error}")
            continue
        elif language != "sh":
            continue
        try:
            for command in commands(block):
                argv = words(command)
                if argv:
                    check_command(where, argv, executable)
        except (ValueError, subprocess.TimeoutExpired) as error:
            problem(where, f"not to be taken apart: {error}")


def prompts(block):
    """The commands of a console block, and what is shown below each."""
    inputs, outputs = [], []
    open_quote = False
    for line in block.splitlines():
        if line.startswith("$ "):
            inputs.append(line[2:])
            outputs.append([])
            open_quote = inputs[-1].count("'") % 2 == 1 or line.endswith("\\")
        elif open_quote and inputs:
            inputs[-1] += "\n" + line
            open_quote = inputs[-1].count("'") % 2 == 1 or line.endswith("\\")
        elif outputs:
            outputs[-1].append(line)
    return inputs, ["\n".join(lines) for lines in outputs]


def check_tests():
    """Tests that prove something, where a page says which: `module::test`, or its beginning before an ellipsis."""
    sources = "\n".join(path.read_text() for folder in ("crates", "tests") for path in (ROOT / folder).rglob("*.rs"))
    functions = set(re.findall(r"\bfn (\w+)", sources))
    found = 0
    for page in ("docs/threat-model.md", "docs/walls-taken-away.md", "docs/hostile-corpus.md"):
        for name, more in re.findall(r"`(?:\w+::)+(\w+)(…?)`", (ROOT / page).read_text()):
            found += 1
            there = any(function.startswith(name) for function in functions) if more else name in functions
            if not there:
                problem(page, f"there is no test {name}{more}")
    if found < 40:
        problem("docs/threat-model.md", "the tests that prove it are no longer found")


def check_what_is_said():
    """Every message with a known remedy, and every code of an error, has a row for who looks for it."""
    page = ROOT / "docs/troubleshooting.md"
    text = page.read_text()
    remedies = (ROOT / "crates/executor-infra-isolation/src/bwrap/remedy.rs").read_text()
    said = re.findall(r'says: "([^"]+)"', remedies)
    codes = re.findall(r"`(Executor\.\w+)`", (ROOT / "docs/api.md").read_text())
    if len(said) < 10 or len(codes) < 8:
        problem(page.relative_to(ROOT), "what it must explain is no longer found")
    for needed in said + codes:
        if f"`{needed}`" not in text:
            problem(page.relative_to(ROOT), f"does not explain `{needed}`")


def check_metrics():
    """Metrics that alerts and autoscalers rely on, where the executor counts anything at all."""
    catalogue = ROOT / "crates/executor-infra-telemetry/src/catalogue.rs"
    if not catalogue.exists():
        return
    known = set(re.findall(r'"(sandbox_\w+)"', catalogue.read_text()))
    files = [ROOT / "docs/operations.md", *(ROOT / "deploy").rglob("*.yaml")]
    for file in files:
        for name in set(re.findall(r"\b(sandbox_[a-z_]+)", file.read_text())):
            bare = re.sub(r"_(total|bucket|sum|count)$", "", name)
            begins = name.endswith("_") and any(other.startswith(name) for other in known)
            if name not in known and bare not in known and not begins:
                problem(file.relative_to(ROOT), f"nobody counts {name}")


class Daemon:
    def __init__(self, executable, directory):
        environment = {"PATH": os.environ["PATH"], "CONTROL_PLANE_URL": "none", "EXECUTOR_PORT": "0"}
        environment["WORKSPACE_PATH"] = str(directory / "workspace")
        self.process = subprocess.Popen(
            [executable, "serve"], env=environment, stdout=subprocess.PIPE, stderr=open(directory / "log", "w"), text=True
        )
        line = self.process.stdout.readline()
        if not line.startswith("listening on http://"):
            sys.exit("error: the daemon does not listen:\n" + (directory / "log").read_text())
        self.address = line.strip().removeprefix("listening on http://")

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


def run_block(where, language, block, address, environment):
    block = block.replace("localhost:8080", address)
    inputs, outputs = prompts(block) if language == "console" else ([block], [None])
    with tempfile.TemporaryDirectory() as directory:
        for command, shown in zip(inputs, outputs):
            ended = subprocess.run(
                ["bash", "--norc", "-euo", "pipefail", "-c", command], cwd=directory, env=environment,
                capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
            )
            if ended.returncode != 0:
                problem(where, f"ended with {ended.returncode}: {command}\n{ended.stderr}")
            # A refused or failed execution is an answer as well, and not what the page shows.
            for line in ended.stdout.splitlines():
                if line.startswith("{") and ('"error_code"' in line or '"status":"failed"' in line):
                    problem(where, f"{command}\nanswers {line}")
            if shown:
                expected = re.sub(r"\s+", "", shown.split("…")[0])
                printed = re.sub(r"\s+", "", ended.stdout)
                if not printed.startswith(expected):
                    problem(where, f"{command}\nprints {ended.stdout}\nand not {shown}")


def run(executable):
    executable = str(pathlib.Path(executable).resolve())
    count = 0
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        # Guests may be somebody else, and must be able to walk through.
        directory.chmod(0o711)
        tools = directory / "bin"
        tools.mkdir()
        (tools / "sandbox-executor").symlink_to(executable)
        environment = {
            "PATH": f"{tools}:{os.environ['PATH']}", "HOME": name, "CONTROL_PLANE_URL": "none", "NO_PROXY": "*",
            "WORKSPACE_PATH": str(directory / "other"), "LC_ALL": "C.UTF-8",
        }
        daemon = Daemon(executable, directory)
        try:
            for page in pages():
                text = page.read_text()
                for match in FENCE.finditer(text):
                    if text[: match.start()].rstrip("\n").endswith("<!-- run -->"):
                        where = f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}"
                        run_block(where, *match.groups(), daemon.address, environment)
                        count += 1
        finally:
            daemon.stop()
    if count == 0:
        problem("docs", "no block is marked to be run")
    return f"{count} blocks do what they show"


def check():
    directory = os.environ.get("SANDBOX_EXECUTOR_BIN_DIR", ROOT / "target/debug")
    executable = str(pathlib.Path(directory) / "sandbox-executor")
    all_pages = pages()
    for page in all_pages:
        text = page.read_text()
        check_links(page, text)
        check_paths(page, text)
        check_blocks(page, text, executable)
    check_tests()
    check_what_is_said()
    check_metrics()
    return f"{len(all_pages)} pages: links, paths and commands are there"


if __name__ == "__main__":
    said = run(sys.argv[2]) if sys.argv[1:2] == ["run"] else check()
    if problems:
        sys.exit("\n".join(problems))
    print(said)
